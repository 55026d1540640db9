"""Checks that need a GPU; on a CPU the same code is a dry run.

Each check returns results for JSON, with ``ok`` where something can be wrong.
"""
import copy
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from statistics import mean
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from ..deploy.optimize.apply import DTYPES, optimize
from ..deploy.optimize.modes import MODES, find_obstacle
from ..engine.config import load_config
from ..models import VoVNet
from ..models.backbones.vovnet import CHECKPOINTS
from ..utils.dummy_forward import run_network
from .energy import measure_idle, measure_window
from .environment import collect_environment
from .latency import synchronize
from .memory import measure_memory
from .meters import find_meter
from .model import BenchmarkModel, InputConfig

BACKBONE = 'configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py'
DETECTORS = {
    'RetinaNet': 'configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py',
    'RefineDet': 'configs/refinedet/refinedet320_vovnet-39_coco.py',
    'DSOD': 'configs/dsod/dsod300_vovnet-27-slim_voc0712.py',
}
NORMS = {
    'BN': {},
    'BN in eval mode': dict(norm_eval=True),
    'frozen BN': dict(norm_eval=True,
                      norm_cfg=dict(type='BN', requires_grad=False)),
    'GN': dict(norm_cfg=dict(type='GN', num_groups=16)),
    'SyncBN': dict(norm_cfg=dict(type='SyncBN')),
}
LAYOUTS = {
    'contiguous': torch.contiguous_format,
    'channels last': torch.channels_last,
}


def collect_facts(device: torch.device, small: bool) -> dict[str, Any]:
    """Describe the machine, the software and the inference modes."""
    facts = dict(collect_environment(device), modes={
        name: find_obstacle(name, device) for name, mode in MODES.items()
        if not mode.runtime})
    if meter := find_meter(device):
        facts['meter'] = dict(method=meter.method, **meter.state())
    else:
        facts['meter'] = meter.reason
    if device.type == 'cuda':
        facts['compute capability'] = torch.cuda.get_device_capability(device)
        try:  # for the log
            subprocess.run(['nvidia-smi', '-q', '-d', 'CLOCK,POWER,'
                            'TEMPERATURE,PERFORMANCE'], timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(error)
    return facts


def _shorten(error: Exception) -> str:
    return str(error).split('\n')[0][:300]


def _relative_error(found: Any, expected: Any) -> float:
    """Return the largest ||found - expected|| / ||expected|| of tensors."""
    return max(
        float((a.detach().double() - b.detach().double()).norm()
              / b.detach().double().norm().clamp(min=1e-12))
        for a, b in zip(tree_leaves(found), tree_leaves(expected),
                        strict=True))


@contextmanager
def _disable_tf32() -> Iterator[None]:
    """Let convolutions multiply in single precision."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


# -- Recomputation -----------------------------------------------------------


class _Step(NamedTuple):
    """Results of a training step; gradients and buffers by name."""
    outputs: Sequence[Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


@_disable_tf32()
def check_recompute(device: torch.device, small: bool) -> dict[str, Any]:
    """Compare ``with_cp`` with plain training in all settings.

    Gradients may be as far from those in double precision as plain ones are.
    """
    archs = ['V2-19-slim'] if small else ['V1-39', 'V2-39', 'V2-19-dw']
    norms = ['BN', 'GN'] if small else NORMS
    dtypes = ['fp32'] if small else DTYPES
    cases, failures, worst = 0, [], {}
    for arch, norm in itertools.product(archs, norms):
        base = _build_backbone(arch, device, **NORMS[norm])
        images = torch.randn(2, 3, 96, 128, device=device)
        truth = _train(copy.deepcopy(base).double(), images.double(), 'fp32')
        for dtype, layout in itertools.product(dtypes, LAYOUTS):
            plain = _train_copy(base, False, images, dtype, layout)
            for mode in CHECKPOINTS:
                cases += 1
                name = ', '.join((arch, norm, dtype, layout, mode))
                try:
                    found = _train_copy(base, mode, images, dtype, layout)
                    reason, ratio = _find_deviation(found, plain, truth, dtype)
                except Exception as error:
                    reason, ratio = _shorten(error), 0.
                if reason:
                    failures.append(f'{name}: {reason}')
                worst[mode] = max(worst.get(mode, (0, '')), (ratio, name))
    return dict(ok=not failures, cases=cases, failures=failures,
                worst_error_over_plain=worst)


def _build_backbone(arch: str, device: torch.device, **options) -> VoVNet:
    """Build a backbone with random batch norm statistics."""
    torch.manual_seed(0)
    network = VoVNet(arch, **options)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network.to(device).train()


def _train_copy(base: VoVNet, mode: bool | str, images: Tensor, dtype: str,
                layout: str) -> _Step:
    network = copy.deepcopy(base)
    network.with_cp = mode
    return _train(network.to(memory_format=LAYOUTS[layout]),
                  images.contiguous(memory_format=LAYOUTS[layout]), dtype)


def _train(network: VoVNet, images: Tensor, dtype: str) -> _Step:
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, DTYPES[dtype],
                        enabled=dtype != 'fp32'):
        outputs = network(images)
    noise = torch.Generator().manual_seed(1)
    sum((out * torch.randn(out.shape, generator=noise).to(out)).float().sum()
        / out.numel()**0.5 for out in outputs).backward()
    gradients = {name: weight.grad
                 for name, weight in network.named_parameters()
                 if weight.grad is not None}
    return _Step(outputs, dict(gradients, images=images.grad),
                 dict(network.named_buffers()))


def _find_deviation(found: _Step, plain: _Step, truth: _Step,
                    dtype: str) -> tuple[str, float]:
    """Return a deviation or '', and gradient errors relative to plain ones."""
    if found.gradients.keys() != plain.gradients.keys():
        return 'gradients of other weights', 0.
    tolerance = 1e-5 if dtype == 'fp32' else 0.05
    pairs = [(f'output {i}', a, b) for i, (a, b) in enumerate(
        zip(found.outputs, plain.outputs, strict=True))]
    pairs += [(name, found.buffers[name], buffer)
              for name, buffer in plain.buffers.items()
              if buffer.is_floating_point()]
    for name, one, other in pairs:
        if (error := _relative_error(one, other)) > tolerance:
            return f'{name}: differs by {error:.1e}', 0.
    errors, plain_errors = (
        {name: _relative_error(step.gradients[name], gradient)
         for name, gradient in truth.gradients.items()}
        for step in (found, plain))
    ratio = sum(errors.values()) / max(sum(plain_errors.values()), 1e-12)
    for name, error in errors.items():
        limit = 4 * plain_errors[name] + tolerance
        # Another order of sums rounds some weights' gradients worse by chance.
        if not error <= limit or not isfinite(plain_errors[name]):
            return (f'gradient of {name} differs from that in double '
                    f'precision by {error:.1e}, the plain one by '
                    f'{plain_errors[name]:.1e}'), ratio
    if ratio > 1.5 and sum(errors.values()) > tolerance:
        return f'gradients are {ratio:.1f} times as far off', ratio
    return '', ratio


# -- Inference ---------------------------------------------------------------


@_disable_tf32()
def check_modes(device: torch.device, small: bool,
                names: Sequence[str]) -> dict[str, Any]:
    """Compare inference modes with the plain network.

    The dry run compiles nothing, which takes minutes.
    """
    if small:
        names = [name for name in names if not MODES[name].compile]
    found, failures = {}, []
    for part, config in (('backbone', BACKBONE),
                         ('detector', DETECTORS['RetinaNet'])):
        shape = [64] if small else [320]
        subject = BenchmarkModel(load_config(config), InputConfig(
            part, False, shape, device=str(device)))
        for mode in names:
            name = f'{part}, {mode}'
            if reason := find_obstacle(mode, device):
                found[name] = reason
                continue
            start = time.monotonic()
            try:
                found[name] = _check_mode(subject, mode)
                if not found[name]['ok']:
                    failures.append(name)
            except Exception as error:
                found[name] = f'{type(error).__name__}: {_shorten(error)}'
                failures.append(f'{name}: {found[name]}')
            print(name, found[name], f'{time.monotonic() - start:.1f} s',
                  flush=True)
    return dict(ok=not failures, failures=failures, modes=found)


@torch.no_grad()
def _check_mode(subject: BenchmarkModel, mode: str) -> dict[str, Any]:
    """Run a mode as it warms up, records and replays, and on other images.

    Errors in 16 bits may be 1.5 times those of autocast.
    """
    network, images = subject.network, subject.tensors[0]
    height, width = images.shape[2:]
    dtype = MODES[mode].dtype
    fast = optimize(network, mode, images)
    inputs = [images] * 4 + [torch.randn_like(images), torch.randn(
        1, 3, height - 32, width + 32, device=images.device)]
    differences, limits = [], []
    for batch in inputs:
        plain = run_network(network, batch)
        differences.append(_relative_error(run_network(fast, batch), plain))
        with torch.autocast(batch.device.type, DTYPES[dtype],
                            enabled=dtype != 'fp32'):
            rounded = run_network(network, batch)
        limits.append(1.5 * _relative_error(rounded, plain) + 1e-3)
    return dict(ok=all(a <= b for a, b in zip(differences, limits)),
                differences=differences, limits=limits)


def check_synchronization(device: torch.device,
                          small: bool) -> dict[str, Any]:
    """Check that timed code does not wait for the GPU."""
    waits = {}
    for name, config in DETECTORS.items():
        shape = [64] if small and name == 'RetinaNet' else None
        subject = BenchmarkModel(load_config(config), InputConfig(
            'detector', False, shape, device=str(device)))
        subject.run()
        if device.type == 'cuda':
            torch.cuda.set_sync_debug_mode('error')
        try:
            subject.run()
            waits[name] = ''
        except RuntimeError as error:
            waits[name] = _shorten(error)
        finally:
            if device.type == 'cuda':
                torch.cuda.set_sync_debug_mode('default')
    return dict(ok=not any(waits.values()), waits=waits)


# -- Measurements ------------------------------------------------------------


def check_memory(device: torch.device, small: bool) -> dict[str, Any]:
    """Check that three measurements of one network agree."""
    cfg, found = load_config(BACKBONE), []
    how = InputConfig('backbone', False, [64 if small else 320],
                      device=str(device))

    def build() -> tuple:
        subject = BenchmarkModel(cfg, how)
        return subject.network, subject.tensors, subject.run

    for _ in range(3):
        memory, subject = measure_memory(build, device)
        del subject
        found.append(memory.to_dict())
    sizes = [one['system' if device.type == 'cuda' else 'tensors']
             for one in found]
    # CUDA loads each kernel when it is first run, a few MB in all.
    return dict(ok=max(sizes) <= 1.1 * min(sizes), memory=found)


def check_meter(device: torch.device, small: bool) -> dict[str, Any]:
    """Compare the energy counter with the power that the driver reports."""
    meter = find_meter(device)
    if not meter:
        return dict(none=meter.reason)
    if device.type != 'cuda':
        return dict(none=f'{meter.method}, no counter of a GPU')
    matrix = torch.randn(4096, 4096, device=device)
    idle = measure_idle(meter, 3)
    watts = []

    def work() -> None:
        torch.mm(matrix, matrix)
        watts.append(meter.read_power())

    reading, _ = measure_window(meter, work, 1, 5,
                                partial(synchronize, device))
    if problem := idle.problem or reading.problem:
        return dict(ok=False, error=problem)
    polled = mean(watts[len(watts) // 2:])
    steps, end, last = [], time.monotonic() + 2, None
    while time.monotonic() < end:
        if (now := meter.read()) != last:
            steps.append(time.monotonic())
            last = now
    return dict(ok=abs(reading.watts - polled) < 0.2 * polled,
                idle_watts=idle.watts, busy_watts=reading.watts,
                polled_watts=polled,
                seconds_between_steps=(steps[-1] - steps[0]) / max(
                    1, len(steps) - 1), state=meter.state())


def check_ddp(device: torch.device, small: bool) -> dict[str, Any]:
    """Train under DDP in one process, with NCCL on a GPU."""
    cuda, found = device.type == 'cuda', {}
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK='0',
                      WORLD_SIZE='1')
    dist.init_process_group('nccl' if cuda else 'gloo')
    try:
        for mode, static in itertools.product(CHECKPOINTS, (False, True)):
            network = VoVNet('V1-27-slim', with_cp=mode, norm_cfg=dict(
                type='SyncBN' if cuda else 'BN')).to(device).train()
            wrapped = DistributedDataParallel(
                network, [device] if cuda else None, static_graph=static)
            for _ in range(3):
                sum(out.mean() for out in wrapped(torch.randn(
                    2, 3, 96, 96, device=device))).backward()
            found[f'{mode}, static_graph={static}'] = all(
                weight.grad is not None and bool(weight.grad.isfinite().all())
                for weight in network.parameters())
    finally:
        dist.destroy_process_group()
    return dict(ok=all(found.values()), gradients=found)


CHECKS: dict[str, Callable[[torch.device, bool], dict[str, Any]]] = dict(
    facts=collect_facts, recompute=check_recompute,
    modes=partial(check_modes, names=[
        name for name, mode in MODES.items()
        if not (mode.runtime or mode.compile)]),
    **{name: partial(check_modes, names=[name])
       for name, mode in MODES.items() if mode.compile},
    synchronization=check_synchronization,
    memory=check_memory, meter=check_meter, ddp=check_ddp)
