"""Hardware and software environment of a benchmark."""
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..ops import backend
from ..version import __version__

PACKAGES = ('torchvision', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet',
            'mmpretrain')


def collect_environment(device: torch.device) -> dict[str, Any]:
    """Describe the machine and the software, for people and for JSON."""
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    found = dict(processor=_find_processor(), cores=cores,
                 threads=torch.get_num_threads(),
                 system=platform.platform(terse=True))
    if hasattr(os, 'getloadavg'):
        found['load before'] = round(os.getloadavg()[0], 2)
    for name in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        if name in os.environ:
            found[name] = os.environ[name]
    if device.type == 'cuda':
        gpu = torch.cuda.get_device_properties(device)
        found.update({
            'GPU': gpu.name, 'GPU memory, MiB': gpu.total_memory >> 20,
            'CUDA': torch.version.cuda,
            'cuDNN': torch.backends.cudnn.version(),
            'TF32 in convolutions': torch.backends.cudnn.allow_tf32,
            'cuDNN benchmark': torch.backends.cudnn.benchmark})
    else:
        found['instructions'] = torch.backends.cpu.get_cpu_capability()
    found['python'] = platform.python_version()
    found['torch'] = torch.__version__
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    found['mmcv operators'] = backend()
    found['vovnet'] = __version__
    return found


def _find_processor() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            if name := re.search(r'^model name\s*: (.+)', file.read(), re.M):
                return name[1]
    except OSError:
        pass
    return platform.processor() or platform.machine()
