"""Fast copies of trained models, with the same outputs up to rounding."""
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

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
    """Return a fast copy of a model for inference.

    Takes a detector of mmdet, a classifier of mmpretrain or a backbone.
    Compiled, or recorded as CUDA graphs, are backbone (one graph, without
    breaks), neck and dense heads, again for each new image size. In 16 bits,
    convolutions and linear layers run under autocast; heads return single
    precision, a backbone alone returns 16 bits. On CUDA, a compiled or
    recorded backbone alone overwrites its outputs in the next call.

    Args:
        model: Model in eval mode; stays unchanged.
        mode: Key of :data:`~vovnet.deploy.optimize.modes.MODES` that runs in
            torch.
        images: (N, C, H, W), run once so that the copy is compiled for
            their shape now. By default nothing is compiled before the first
            call, and zeros of 320 px show which norms can be folded.

    Returns:
        The copy, with the model's interface; ``optimized`` holds its mode.
        It cannot be trained, saved, exported or optimized again.

    Raises:
        UserError: If the mode is unknown or cannot be used here, or the model
            is not in eval mode, has no convolution, or runs on ``images``
            but not in the mode.
    """
    device = next(model.parameters()).device
    settings = check_mode(mode, device)
    name = type(model).__name__
    if settings.runtime:
        raise UserError(f'mode {mode}: runs in another runtime, not in torch; '
                        'use vovnet.deploy.optimize.backends')
    if any(module.training for module in model.modules()):
        raise UserError(f'optimize: {name} is in training mode; call its '
                        'eval() first')
    if hasattr(model, 'optimized'):
        raise UserError(f'optimize: {name} is already optimized; optimize '
                        'the model that it was made from')
    model = copy.deepcopy(model).requires_grad_(False)
    if not settings.fold:
        return model
    model.optimized = mode
    sample = _create_sample(model) if images is None else images
    run = partial(run_network, model, sample)
    fold_norms(model, run)
    model.to(memory_format=torch.channels_last)
    if (device.type == 'cpu' and not settings.compile
            and torch.backends.mkldnn.is_available()):
        fuse_convolutions(model, run)
    if settings.dtype != 'fp32':
        # Autocast alone would convert all weights in each run.
        for module in model.modules():
            if isinstance(module, (_ConvNd, OneDNNConv2d, nn.Linear)):
                module.to(DTYPES[settings.dtype])
    _wrap_parts(model, settings, device)
    if images is not None:
        try:
            with torch.no_grad():
                run_network(model, images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise all kinds of errors
            reason = (str(error).strip() or type(error).__name__).split('\n')
            raise UserError(
                f'mode {mode}: {name} cannot run in it on {device} '
                f'({reason[0]}); use mode fold') from error
    return model


def _create_sample(model: nn.Module) -> Tensor:
    """Return an empty image for a model, by its first convolution."""
    for module in model.modules():
        if isinstance(module, _ConvNd):
            return module.weight.new_zeros(1, module.in_channels, 320, 320)
    raise UserError(f'optimize: {type(model).__name__} has no convolution; '
                    'leave it as it is')


def optimize_for_batch(model: nn.Module, batch: dict, mode: str,
                       progress: Callable[[str], None]) -> nn.Module:
    """Optimize a detector or classifier for the batches of a test.

    Args:
        model: Model in eval mode, possibly wrapped for distributed runs.
        batch: First batch of the data loader.
        mode: Mode as in :func:`optimize`, or 'auto' for the fastest.
        progress: Called with lines that tell what is done.

    Returns:
        The copy, without wrapper.
    """
    while is_model_wrapper(model):
        model = model.module
    with torch.no_grad():
        images = model.data_preprocessor(dict(batch))['inputs']
    if mode != 'auto':
        progress(f'optimize: {mode}, {MODES[mode].dtype}, '
                 f'{MODES[mode].description}')
        return optimize(model, mode, images)
    mode, fastest = find_fastest_mode(
        model, images, lambda line: progress(f'optimize: {line}'))
    progress(f'optimize: takes {mode}')
    return fastest


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Hook that tests an optimized copy of the model.

    Args:
        mode: Mode as in :func:`optimize_for_batch`.
    """

    priority = 'LOWEST'  # after the hook that puts averaged weights in

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def before_test_iter(self, runner: Runner, batch_idx: int,
                         data_batch: dict | None = None) -> None:
        """Replace the runner's model at the first batch."""
        if batch_idx == 0:
            runner.model = optimize_for_batch(
                runner.model, data_batch, self.mode, runner.logger.info)


def find_fastest_mode(model: nn.Module, images: Tensor,
                      progress: Callable[[str], None]
                      ) -> tuple[str, nn.Module]:
    """Try all modes that run in torch on this machine, on a batch of images.

    Args:
        model: Model in eval mode; stays unchanged.
        images: (N, C, H, W).
        progress: Called with a line about each mode.

    Returns:
        The fastest mode and the copy that :func:`optimize` makes in it.
    """
    # Imported here: it looks for a CUDA compiler and warns without a GPU.
    from torch.utils.benchmark import Timer
    with torch.no_grad():
        expected = run_network(model, images)
    best = (float('inf'), '', model)
    for name, mode in MODES.items():
        if mode.runtime:
            continue
        if reason := find_obstacle(name, images.device):
            progress(f'{name}: not tried, {reason}')
            continue
        try:
            candidate = optimize(model, name, images)
        except UserError as error:
            if name == 'eager':  # the model itself is at fault
                raise
            progress(f'{name}: not taken, {error}')
            continue
        with torch.no_grad():
            difference = compute_difference(
                run_network(candidate, images), expected)
            timer = Timer(
                'run(model, images)', num_threads=torch.get_num_threads(),
                globals=dict(run=run_network, model=candidate, images=images))
            seconds = timer.blocked_autorange(min_run_time=1).median
        progress(f'{name}: {seconds * 1e3:.1f} ms, outputs within '
                 f'{difference:.1e}')
        if seconds < best[0]:
            best = seconds, name, candidate
    return best[1:]


def compute_difference(found: Any, expected: Any) -> float:
    """Return the largest relative difference between two networks' outputs.

    Differences are relative to the largest absolute value of the expected
    tensor.

    Args:
        found: Tensors in any containers.
        expected: As many tensors of the same shapes.
    """
    pairs = [[leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
             for tree in (found, expected)]
    return max(float((a.float() - b.float()).abs().max() /
                     b.float().abs().max().clamp(min=1e-30))
               for a, b in zip(*pairs, strict=True))


def _wrap_parts(model: nn.Module, mode: Mode, device: torch.device) -> None:
    """Set the precision and the compiler of a model's parts, in place."""
    dtype = DTYPES[mode.dtype]
    if dtype == torch.float32 and not (mode.compile or mode.graph):
        return
    kernels = backbone_kernels = CUDAGraphed if mode.graph else None
    if mode.compile:
        kernels = partial(_compile, device=device)
        backbone_kernels = partial(kernels, fullgraph=True)
    if not isinstance(model, BaseModel):
        return _wrap(model, dtype, device, backbone_kernels,
                     starts=mode.compile)
    for name, part in model.named_children():
        if isinstance(part, BaseRoIHead):
            # Not compiled: the number of boxes changes.
            for module in part.children():
                is_list = isinstance(module, nn.ModuleList)
                for head in module if is_list else [module]:
                    _wrap(head, dtype, device, ends=True)
        elif name == 'backbone':
            _wrap(part, dtype, device, backbone_kernels, starts=mode.compile)
        elif name != 'data_preprocessor':
            _wrap(part, dtype, device, kernels, ends=name != 'neck')


def _wrap(part: nn.Module, dtype: torch.dtype, device: torch.device,
          kernels: Callable[[Callable], Callable] | None = None,
          starts: bool = False, ends: bool = False) -> None:
    """Replace a part's forward by one with other precision and kernels.

    A part that ``starts`` is the first of several compiled ones. A part that
    ``ends`` is followed by decoding, so it returns single precision.
    """
    is_extractor = isinstance(part, BaseRoIExtractor)
    autocast = dtype != torch.float32 and not is_extractor
    forward = kernels(part.forward) if kernels else part.forward

    def widen(tree: Any) -> Any:
        return tree_map_only(
            Tensor, lambda t: t.float() if t.dtype == dtype else t, tree)

    def run(*args, **kwargs) -> Any:
        if is_extractor:  # RoIAlign needs every bit of its boxes
            args, kwargs = widen((args, kwargs))
        if starts and device.type == 'cuda':
            # Otherwise each compiled part would count as a new iteration and
            # release the memory of the previous part's outputs.
            torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad(), torch.autocast(
                device.type, dtype if autocast else None, enabled=autocast):
            outputs = forward(*args, **kwargs)
        return widen(outputs) if ends else outputs

    part.forward = run


def _compile(forward: Callable, device: torch.device,
             fullgraph: bool = False) -> Callable:
    """Compile a forward function, on CUDA with CUDA graphs."""
    # Dynamo counts a network's copies and image sizes together, and stops
    # compiling at its limit of 8.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    cuda = device.type == 'cuda'
    compiled = torch.compile(forward, fullgraph=fullgraph,
                             mode='reduce-overhead' if cuda else None)
    if cuda:
        return compiled

    def run(*args, **kwargs) -> Any:
        # As an option of torch.compile, Dynamo would not see it, and weights
        # would not be laid out beforehand.
        with inductor.patch(freezing=True):
            return compiled(*args, **kwargs)

    return run
