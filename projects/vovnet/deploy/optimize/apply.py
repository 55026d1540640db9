"""A trained model made fast, with the same outputs.

Own work on what torch offers: oneDNN's fused operators, ``torch.compile`` with
Inductor's freezing, CUDA graphs, autocast.
"""
import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from mmdet.models.roi_heads import BaseRoIHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map_only

from ...utils.dummy_forward import run_network
from ...utils.errors import UserError
from .cuda_graph import CUDAGraphed
from .folding import OneDNNConv2d, fold_norms, fuse_convolutions
from .modes import MODES, Mode, check_mode, find_obstacle

DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def optimize(model: nn.Module, mode: str = 'fold',
             images: Tensor | None = None) -> nn.Module:
    """Make a fast copy of a model, for inference.

    A detector of mmdet, a classifier of mmpretrain, or a backbone. Batch
    norms are folded into convolutions wherever these stand, weights are put
    in channels-last order; on a CPU oneDNN computes a convolution and its
    ReLU in one, on weights that are laid out once. In 16 bits convolutions
    and linear layers have weights of that type and run under autocast; what
    heads give is in single precision again, and so is the decoding of boxes.
    The maps of a backbone alone stay in 16 bits. Compiled, or recorded as CUDA
    graphs, are backbone (one graph, without breaks), neck and dense heads; a
    new size of the images does it again. On CUDA the maps that these give of
    a backbone alone are overwritten by the next run.

    Args:
        model (nn.Module): In eval mode. It stays as it is.
        mode (str): A name of :data:`vovnet.deploy.optimize.modes.MODES` that needs
            no other runtime.
        images (Tensor, optional): (N, C, H, W), what the copy will run on: it
            is run once, so that it is compiled now. By default zeros of
            320 px show which norms can be folded, and nothing is compiled
            before the first call.

    Returns:
        nn.Module: The copy, with the interface of the model. It is not to be
        trained, saved, exported or optimised again; ``optimised`` says its
        mode.

    Raises:
        UserError: If the model is in training mode, the mode is unknown or
            cannot be used on the machine, the model has no convolution, or
            it runs on ``images`` but not in the mode.
    """
    device = next(model.parameters()).device
    found = check_mode(mode, device)
    if found.runtime:
        raise UserError(f'mode {mode}: is another runtime, no torch model; '
                        'use vovnet.deploy.optimize.backends')
    if any(module.training for module in model.modules()):
        raise UserError(f'optimize: {type(model).__name__} is in training '
                        'mode; call its eval() first')
    if hasattr(model, 'optimised'):
        raise UserError(f'optimize: {type(model).__name__} is optimised '
                        'already; optimise the model that it was made from')
    model = copy.deepcopy(model).requires_grad_(False)
    if not found.fold:
        return model
    model.optimised = mode
    seen = images
    if seen is None:
        first = next((module for module in model.modules()
                      if isinstance(module, _ConvNd)), None)
        if first is None:
            raise UserError(f'optimize: {type(model).__name__} has no '
                            'convolution; leave it as it is')
        seen = torch.zeros(1, first.in_channels, 320, 320, device=device,
                           dtype=first.weight.dtype)
    run = partial(run_network, model, seen)
    fold_norms(model, run)
    model.to(memory_format=torch.channels_last)
    if device.type == 'cpu' and not found.compile and \
            torch.backends.mkldnn.is_available():
        fuse_convolutions(model, run)
    if DTYPES[found.dtype] != torch.float32:
        # Autocast alone would convert all weights in each run.
        for module in model.modules():
            if isinstance(module, (_ConvNd, OneDNNConv2d, nn.Linear)):
                module.to(DTYPES[found.dtype])
    _speed_up(model, found, device)
    if images is not None:
        try:
            with torch.no_grad():
                run_network(model, images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler raises what it likes
            reason = (str(error).strip() or type(error).__name__).split('\n')
            raise UserError(
                f'mode {mode}: {type(model).__name__} cannot run in it on '
                f'{device} ({reason[0]}); use mode fold') from error
    return model


def optimize_for(model: nn.Module, batch: dict, mode: str,
                 progress: Callable[[str], None]) -> nn.Module:
    """Optimise a model for the batches of a test.

    Args:
        model (nn.Module): A detector or a classifier in eval mode, maybe
            wrapped for a distributed run.
        batch (dict): The first batch, as the data loader gives it.
        mode (str): As :func:`optimize` takes it, or 'auto' for the fastest.
        progress (Callable): Called with lines that say what is done.

    Returns:
        nn.Module: The copy, not wrapped.

    Raises:
        UserError: See :func:`optimize`.
    """
    while is_model_wrapper(model):
        model = model.module
    with torch.no_grad():
        images = model.data_preprocessor(dict(batch))['inputs']
    if mode != 'auto':
        progress(f'optimize: {mode}, {MODES[mode].dtype}, {MODES[mode].what}')
        return optimize(model, mode, images)
    best, trials = fastest(model, images,
                           lambda line: progress(f'optimize: {line}'))
    progress(f'optimize: takes {trials[0].mode}')
    return best


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Test an optimised copy of the model.

    Args:
        mode (str): As :func:`optimize_for` takes it.
    """

    priority = 'LOWEST'  # behind the one that puts averaged weights in

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def before_test_iter(self, runner: Runner, batch_idx: int,
                         data_batch: dict | None = None) -> None:
        """Replace the model when the first batch is there.

        Args:
            runner (Runner): Its model is replaced.
            batch_idx (int): The number of the batch.
            data_batch (dict): The batch.
        """
        if batch_idx == 0:
            runner.model = optimize_for(runner.model, data_batch, self.mode,
                                        runner.logger.info)


class Trial(NamedTuple):
    """What came of a mode.

    Attributes:
        mode: Its name.
        seconds: Median time of the maps of a batch.
        difference: See :func:`difference`.
    """
    mode: str
    seconds: float
    difference: float


def fastest(model: nn.Module, images: Tensor,
            progress: Callable[[str], None] = lambda _: None
            ) -> tuple[nn.Module, list[Trial]]:
    """Try the modes that this machine has, and keep the fastest.

    Decoding and NMS, which are the same in all modes, are not run. Other
    runtimes are not tried: ``tools/analysis_tools/benchmark.py`` does it.

    Args:
        model (nn.Module): In eval mode. It stays as it is.
        images (Tensor): (N, C, H, W), what it will run on.
        progress (Callable): Called with a line about each mode.

    Returns:
        tuple: The optimised copy, and what was tried, fastest first.

    Raises:
        UserError: If the model is in training mode.
    """
    # Its import looks for a compiler of CUDA, and warns where there is no GPU.
    from torch.utils.benchmark import Timer
    with torch.no_grad():
        expected = run_network(model, images)
    trials, best = [], None
    for name, mode in MODES.items():
        if mode.runtime:
            continue
        if reason := find_obstacle(name, images.device):
            progress(f'{name}: not tried, {reason}')
            continue
        try:
            copied = optimize(model, name, images)
        except UserError as error:
            if name == 'eager':
                raise
            progress(f'{name}: not taken, {error}')
            continue
        with torch.no_grad():
            apart = difference(run_network(copied, images), expected)
            clock = Timer('run(model, images)', num_threads=(
                torch.get_num_threads()), globals=dict(
                    run=run_network, model=copied, images=images))
            trial = Trial(name, clock.blocked_autorange(
                min_run_time=1).median, apart)
        progress(f'{name}: {trial.seconds * 1e3:.1f} ms, outputs within '
                 f'{apart:.1e}')
        if not trials or trial.seconds < min(t.seconds for t in trials):
            best = copied
        trials.append(trial)
    return best, sorted(trials, key=lambda trial: trial.seconds)


def difference(found: Any, expected: Any) -> float:
    """How far the outputs of two networks are apart.

    Args:
        found (Any): Tensors, in any containers.
        expected (Any): As many tensors of the same shapes.

    Returns:
        float: The largest difference within a tensor as a share of the
        largest absolute value expected in it; of several tensors the worst.
    """
    pairs = [[leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
             for tree in (found, expected)]
    return max(float((a.float() - b.float()).abs().max() /
                     b.float().abs().max().clamp(min=1e-30))
               for a, b in zip(*pairs, strict=True))


def _speed_up(model: nn.Module, mode: Mode, device: torch.device) -> None:
    """Set precision and compiler of a model's parts, in place."""
    dtype = DTYPES[mode.dtype]
    if dtype == torch.float32 and not (mode.compile or mode.graph):
        return
    kernels = (partial(_compiled, device=device) if mode.compile else
               CUDAGraphed if mode.graph else None)
    whole = partial(kernels, fullgraph=True) if mode.compile else kernels
    if not isinstance(model, BaseModel):
        return _wrap(model, dtype, device, whole, starts=mode.compile)
    for name, part in model.named_children():
        if isinstance(part, BaseRoIHead):
            # Their number of boxes changes: not compiled.
            for module in part.children():
                for head in (module if isinstance(module, nn.ModuleList)
                             else [module]):
                    _wrap(head, dtype, device, ends=True)
        elif name != 'data_preprocessor':
            first = name == 'backbone'
            _wrap(part, dtype, device, whole if first else kernels,
                  starts=first and mode.compile,
                  ends=name not in ('backbone', 'neck'))


def _wrap(part: nn.Module, dtype: torch.dtype, device: torch.device,
          kernels: Callable[[Callable], Callable] | None = None,
          starts: bool = False, ends: bool = False) -> None:
    """Have a part run in a precision, and give single precision if it ends.

    Args:
        part (nn.Module): Its forward is replaced.
        dtype (torch.dtype): For convolutions and products.
        device (torch.device): Where it runs.
        kernels (Callable, optional): Makes a forward fast.
        starts (bool): Whether it is the first of several compiled parts.
        ends (bool): Whether decoding follows, and no other part.
    """
    low = dtype != torch.float32
    widen = lambda tree: tree_map_only(
        Tensor, lambda t: t.float() if t.dtype == dtype else t, tree)
    extracts = isinstance(part, BaseRoIExtractor)
    forward = kernels(part.forward) if kernels else part.forward

    def run(*args, **kwargs) -> Any:
        if low and extracts:  # RoIAlign, whose boxes need every bit
            args, kwargs = widen((args, kwargs))
        if starts and device.type == 'cuda':
            # Else each compiled part would take itself for a new iteration,
            # and give back the memory of what the part before it gave.
            torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad(), torch.autocast(
                device.type, dtype if low else None,
                enabled=low and not extracts):
            result = forward(*args, **kwargs)
        return widen(result) if low and ends else result

    part.forward = run


def _compiled(forward: Callable, device: torch.device,
              fullgraph: bool = False) -> Callable:
    """Compile a forward, on CUDA with CUDA graphs."""
    # Dynamo counts the copies of a network, and the sizes of the images,
    # against one limit of 8, behind which nothing is compiled any more.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    compiled = torch.compile(
        forward, fullgraph=fullgraph,
        mode='reduce-overhead' if device.type == 'cuda' else None)
    if device.type == 'cuda':
        return compiled

    def run(*args, **kwargs) -> Any:
        # An option of torch.compile would be hidden from Dynamo, and the
        # weights would not be laid out beforehand.
        with inductor.patch(freezing=True):
            return compiled(*args, **kwargs)

    return run
