"""Devices and types that the operators are tested on.

The tests call the public functions of ``mmcv.ops`` alone, so the very same
tests hold for compiled mmcv. Compiled mmcv has no bfloat16, and no focal
loss on the CPU; there those cases fall away.
"""
import pytest
import torch

from vovnet.ops import backend

TORCHVISION = backend() == 'torchvision'
DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
FOCAL_DEVICES = DEVICES if TORCHVISION else DEVICES[1:]
SHORT_TYPES = [torch.float16] + [torch.bfloat16] * TORCHVISION


def pytest_generate_tests(metafunc):
    if 'device' in metafunc.fixturenames:
        focal = 'focal' in metafunc.module.__name__
        metafunc.parametrize('device', FOCAL_DEVICES if focal else DEVICES)
    if 'short_type' in metafunc.fixturenames:
        metafunc.parametrize('short_type', SHORT_TYPES, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def only_torchvision():
    if not TORCHVISION:
        pytest.skip('compiled mmcv is in use')
