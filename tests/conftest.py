"""What all tests have in common."""
import functools
import os
import sys
from pathlib import Path

import pytest

# Several test processes share the cores; must be set before torch is loaded.
for library in ('OMP', 'OPENBLAS', 'MKL'):
    os.environ.setdefault(f'{library}_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'projects'))  # also where it is not installed


@pytest.fixture(scope='session', autouse=True)
def cached_metafiles():
    """Spare MMEngine reading all of mmdet's for each config of mmdet's."""
    from mmengine.config import utils
    utils.load = functools.lru_cache(None)(utils.load)


@pytest.fixture
def any_bf16(monkeypatch):
    """Let processors without bf16 emulate it: oneDNN refuses, torch does."""
    import torch

    from vovnet.deploy.optimize import modes
    if modes.find_obstacle('bf16', torch.device('cpu')):
        monkeypatch.setattr(modes, '_has_native_bf16', lambda cuda: True)
        monkeypatch.setattr(torch.backends.mkldnn, 'is_available',
                            lambda: False)
