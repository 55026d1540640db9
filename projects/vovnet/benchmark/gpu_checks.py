"""What only a GPU can show to be right.

Each check takes a device and gives what is to be kept as JSON, with ``ok``
where something can be wrong. On a CPU the same code is a dry run.
"""
import copy
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from ..deploy.optimize.apply import DTYPES, optimize
from ..deploy.optimize.modes import MODES, find_obstacle
from ..engine.build import load_any_config
from ..models import VoVNet
from ..models.backbones.vovnet import CHECKPOINTS
from ..utils.dummy_forward import run_network
from .energy import find_meter, measure_idle, measure_window
from .environment import conditions
from .latency import synchronizer
from .memory import measure_memory
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


def check_facts(device: torch.device, small: bool) -> dict[str, Any]:
    """Tell what machine and software this is."""
    found = dict(conditions(device), modes={
        name: find_obstacle(name, device) for name, mode in MODES.items()
        if not mode.runtime})
    if meter := find_meter(device):
        found['meter'] = dict(method=meter.method, **meter.state())
    else:
        found['meter'] = meter.reason
    if device.type == 'cuda':
        found['compute capability'] = torch.cuda.get_device_capability(device)
        try:  # for the log
            subprocess.run(['nvidia-smi', '-q', '-d', 'CLOCK,POWER,'
                            'TEMPERATURE,PERFORMANCE'], timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(error)
    return found


# -- Recomputation -----------------------------------------------------------


def check_recompute(device: torch.device, small: bool) -> dict[str, Any]:
    """Compare ``with_cp`` with plain training, in all settings.

    The yardstick is double precision: gradients of a mode may be as far from
    it as plain ones are.
    """
    archs = ['V2-19-slim'] if small else ['V1-39', 'V2-39', 'V2-19-dw']
    dtypes = ['fp32'] if small else DTYPES
    norms = ['BN', 'GN'] if small else NORMS
    cases, failures, worst = 0, [], {}
    with _without_tf32():
        for arch, norm in itertools.product(archs, norms):
            base = _settled(arch, device, **NORMS[norm])
            images = torch.randn(2, 3, 96, 128, device=device)
            truth = _step(copy.deepcopy(base).double(), images.double())
            for dtype, last in itertools.product(dtypes, (False, True)):
                plain = _train_in(base, False, images, dtype, last)
                for mode in CHECKPOINTS:
                    cases += 1
                    name = ', '.join((arch, norm, dtype, 'channels last'
                                      if last else 'contiguous', mode))
                    try:
                        found = _train_in(base, mode, images, dtype, last)
                        reason, ratio = _compare(found, plain, truth, dtype)
                    except Exception as error:
                        reason, ratio = str(error).split('\n')[0][:200], 0.
                    if reason:
                        failures.append(f'{name}: {reason}')
                    worst[mode] = max(worst.get(mode, (0, '')), (ratio, name))
    return dict(ok=not failures, cases=cases, failures=failures,
                worst_error_over_plain=worst)


def _settled(arch: str, device: torch.device, **options) -> VoVNet:
    """Build a backbone whose batch norms have statistics that matter."""
    torch.manual_seed(0)
    network = VoVNet(arch, **options)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network.to(device).train()


def _train_in(base: VoVNet, mode: bool | str, images: Tensor, dtype: str,
              channels_last: bool) -> tuple:
    network = copy.deepcopy(base)
    network.with_cp = mode
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return _step(network.to(memory_format=layout),
                 images.contiguous(memory_format=layout), dtype)


def _step(network: VoVNet, images: Tensor, dtype: str = 'fp32') -> tuple:
    """A training step: outputs, gradients and buffers by name."""
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, DTYPES[dtype],
                        enabled=dtype != 'fp32'):
        outs = network(images)
    noise = torch.Generator().manual_seed(1)
    sum((out * torch.randn(out.shape, generator=noise).to(out)).float().sum()
        / out.numel()**0.5 for out in outs).backward()
    grads = {name: weight.grad for name, weight in network.named_parameters()
             if weight.grad is not None}
    return outs, dict(grads, images=images.grad), dict(
        network.named_buffers())


def _compare(found: tuple, plain: tuple, truth: tuple,
             dtype: str) -> tuple[str, float]:
    """What is wrong, and the error of the gradients over the plain ones'."""
    if found[1].keys() != plain[1].keys():
        return 'gradients of other weights', 0.
    same = 1e-5 if dtype == 'fp32' else 0.05
    for what, one, two in (
            *((f'output {i}', a, b) for i, (a, b) in enumerate(zip(
                found[0], plain[0], strict=True))),
            *((name, found[2][name], buffer)
              for name, buffer in plain[2].items()
              if buffer.is_floating_point())):
        if _relative(one, two) > same:
            return f'{what}: differs by {_relative(one, two):.1e}', 0.
    ours, theirs = ({name: _relative(grads[name], grad)
                     for name, grad in truth[1].items()}
                    for grads in (found[1], plain[1]))
    ratio = sum(ours.values()) / max(sum(theirs.values()), 1e-12)
    for name, error in ours.items():
        # Sums in another order round otherwise, some weights' by luck more.
        if not error <= 4 * theirs[name] + same and isfinite(theirs[name]):
            return (f'gradient of {name} differs from that in double '
                    f'precision by {error:.1e}, the plain one by '
                    f'{theirs[name]:.1e}'), ratio
    if ratio > 1.5 and sum(ours.values()) > same:
        return f'gradients are {ratio:.1f} times as far off', ratio
    return '', ratio


def _relative(found: Any, expected: Any) -> float:
    """Distance as a share of the length; the worst of several tensors."""
    return max(
        float((a.detach().double() - b.detach().double()).norm()
              / b.detach().double().norm().clamp(min=1e-12))
        for a, b in zip(tree_leaves(found), tree_leaves(expected),
                        strict=True))


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Let convolutions multiply in single precision."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


# -- Inference ---------------------------------------------------------------


def check_modes(device: torch.device, small: bool) -> dict[str, Any]:
    """Compare what runs torch's kernels with the plain network."""
    return _check_modes(device, [
        name for name, mode in MODES.items()
        if not (mode.runtime or mode.compile)], small)


def check_compiled(device: torch.device, small: bool, mode: str = 'compile'
                   ) -> dict[str, Any]:
    """Compare a compiled network with the plain one."""
    return _check_modes(device, [] if small else [mode], small)


def _check_modes(device: torch.device, modes: list[str],
                 small: bool) -> dict[str, Any]:
    found, failures = {}, []
    for part, config in (('backbone', BACKBONE),
                         ('detector', DETECTORS['RetinaNet'])):
        cfg = load_any_config(config)
        shape = [64] if small else [320]
        subject = BenchmarkModel(cfg, InputConfig(
            part, False, shape, device=str(device)))
        for mode in modes:
            name = f'{part}, {mode}'
            if reason := find_obstacle(mode, device):
                found[name] = reason
                continue
            start = time.monotonic()
            try:
                with _without_tf32(), torch.no_grad():
                    found[name] = _check_mode(subject, mode)
                if not found[name]['ok']:
                    failures.append(name)
            except Exception as error:
                reason = str(error).split('\n')[0][:300]
                found[name] = f'{type(error).__name__}: {reason}'
                failures.append(f'{name}: {found[name]}')
            print(name, found[name], f'{time.monotonic() - start:.1f} s',
                  flush=True)
    return dict(ok=not failures, failures=failures, modes=found)


def _check_mode(subject: BenchmarkModel, mode: str) -> dict[str, Any]:
    """Run a mode as it warms up, records and replays, and on other images.

    In 16 bits the yardstick is the plain network under autocast.
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
        differences.append(_relative(run_network(fast, batch), plain))
        with torch.autocast(batch.device.type, DTYPES[dtype],
                            enabled=dtype != 'fp32'):
            rounded = run_network(network, batch)
        limits.append(1.5 * _relative(rounded, plain) + 1e-3)
    return dict(ok=all(a <= b for a, b in zip(differences, limits)),
                differences=differences, limits=limits)


def check_synchronization(device: torch.device,
                          small: bool) -> dict[str, Any]:
    """See that nothing that is timed waits for the GPU."""
    waits = {}
    for name, config in DETECTORS.items():
        shape = [64] if small and name == 'RetinaNet' else None
        subject = BenchmarkModel(load_any_config(config), InputConfig(
            'detector', False, shape, device=str(device)))
        subject.run()
        if device.type == 'cuda':
            torch.cuda.set_sync_debug_mode('error')
        try:
            subject.run()
            waits[name] = ''
        except RuntimeError as error:
            waits[name] = str(error).split('\n')[0][:300]
        finally:
            if device.type == 'cuda':
                torch.cuda.set_sync_debug_mode('default')
    return dict(ok=not any(waits.values()), waits=waits)


# -- Measurements ------------------------------------------------------------


def check_memory(device: torch.device, small: bool) -> dict[str, Any]:
    """Measure one network three times: the first is not to pay for more."""
    cfg, found = load_any_config(BACKBONE), []
    for _ in range(3):

        def build() -> tuple:
            subject = BenchmarkModel(cfg, InputConfig(
                'backbone', False, [64 if small else 320],
                device=str(device)))
            return subject.network, subject.tensors, subject.run

        memory, subject = measure_memory(build, device)
        del subject
        found.append(memory.to_dict())
    sizes = [one['system' if device.type == 'cuda' else 'tensors']
             for one in found]
    # CUDA loads each kernel when it is first run, a few MB of all.
    return dict(ok=max(sizes) <= 1.1 * min(sizes), memory=found)


def check_meter(device: torch.device, small: bool) -> dict[str, Any]:
    """Compare the energy counter with the power that the driver tells."""
    meter = find_meter(device)
    if not meter:
        return dict(none=meter.reason)
    if device.type != 'cuda' or not meter.board.counts():
        return dict(none=f'{meter.method}, no counter of a GPU')
    sync = synchronizer(device)
    matrix = torch.randn(4096, 4096, device=device)
    idle = measure_idle(meter, 3)
    watts = []

    def work() -> None:
        torch.mm(matrix, matrix)
        watts.append(meter.board.read_milliwatts() / 1e3)

    window = measure_window(meter, work, 1, 5, sync)
    steps, end, last = [], time.monotonic() + 2, None
    while time.monotonic() < end:
        if (now := meter.board.read_millijoules()) != last:
            steps.append(time.monotonic())
            last = now
    polled = sum(watts[len(watts) // 2:]) / len(watts[len(watts) // 2:])
    counted = window.reading.watts
    return dict(ok=abs(counted - polled) < 0.2 * polled,
                idle_watts=idle.watts, busy_watts=counted,
                polled_watts=polled, problem=window.reading.problem,
                seconds_between_steps=(steps[-1] - steps[0]) / max(
                    1, len(steps) - 1), state=meter.state())


def check_ddp(device: torch.device, small: bool) -> dict[str, Any]:
    """Train under DDP, over NCCL on a GPU, in one process."""
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
    facts=check_facts, recompute=check_recompute, modes=check_modes,
    **{name: partial(check_compiled, mode=name)
       for name, mode in MODES.items() if mode.compile},
    synchronization=check_synchronization,
    memory=check_memory, meter=check_meter, ddp=check_ddp)

