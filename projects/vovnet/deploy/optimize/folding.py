"""Fewer operators: norms folded into convolutions, ReLUs fused onto them.

mmcv 2.1.0's ``fuse_conv_bn`` folds a norm into the convolution *registered*
before it, whatever the forward pass does: wrong for the pre-activated layers
of DSOD and DenseNet. Here one run on images shows what reads a convolution's
output.
"""
import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.roi_heads import BaseRoIHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def fold_norms(model: nn.Module, run: Callable[[], Any]) -> int:
    """Fold batch norms into the convolutions before them, in place.

    A norm is folded if it reads nothing but outputs of plain convolutions
    that nothing else reads. A convolution that is shared by several places
    with a norm each is split into one convolution per place.

    Args:
        model: Model in eval mode.
        run: Runs the model on any inputs.

    Returns:
        Number of folded convolutions.
    """
    _separate_shared_modules(model)
    pairs = {
        conv: norm for conv, norm
        in _watch_outputs(model, run, _BatchNorm).find_pairs().items()
        if norm.running_mean is not None and _is_plain(norm)}
    new = {conv: fuse_conv_bn_eval(conv, norm) for conv, norm in pairs.items()}
    # timm's norms contain the activation.
    new |= {norm: getattr(norm, 'act', nn.Identity().eval())
            for norm in pairs.values()}
    _replace_modules(model, new)
    return len(pairs)


def _is_plain(norm: _BatchNorm) -> bool:
    return hasattr(norm, 'act') or type(norm).forward in (
        _BatchNorm.forward, nn.SyncBatchNorm.forward)


def fuse_convolutions(model: nn.Module, run: Callable[[], Any]) -> int:
    """Let oneDNN compute convolutions on a CPU, in place.

    A ReLU is fused if it reads nothing but outputs of such convolutions that
    nothing else reads. RoI heads stay as they are: they may get no box.

    Args:
        model: Model in eval mode, its norms folded.
        run: Runs the model on any inputs.

    Returns:
        Number of convolutions that took in a ReLU.
    """
    excluded = {module for head in model.modules()
                if isinstance(head, BaseRoIHead) for module in head.modules()}
    watcher = _watch_outputs(model, run, nn.ReLU)
    convs = {conv for conv, output in watcher.outputs.values()
             if conv not in excluded and _is_supported(conv, output)}
    pairs = watcher.find_pairs()
    kept = {relu for conv, relu in pairs.items() if conv not in convs}
    pairs = {conv: relu for conv, relu in pairs.items() if relu not in kept}
    new = {conv: OneDNNConv2d(conv, relu=conv in pairs) for conv in convs}
    new |= {relu: nn.Identity().eval() for relu in pairs.values()}
    _replace_modules(model, new)
    return len(pairs)


def _is_supported(conv: nn.Module, output: Tensor) -> bool:
    """Return whether :class:`OneDNNConv2d` can replace a convolution."""
    return (type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
            and isinstance(conv.padding, tuple) and _has_weight(conv)
            and output.dim() == 4 and output.dtype == torch.float32)


def _has_weight(conv: nn.Module) -> bool:
    """Return whether the weight is a parameter, unlike spectral norm's."""
    return conv._parameters.get('weight') is not None


class OneDNNConv2d(nn.Module):
    """Convolution by oneDNN with a packed weight, optionally with ReLU.

    Calls what Inductor calls (torch 2.11,
    ``_inductor/fx_passes/mkldnn_fusion.py``), without a compiler.

    Args:
        conv: Convolution; its weight sets the precision.
        relu: Apply ReLU to the output.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.options = (list(conv.padding), list(conv.stride),
                        list(conv.dilation), conv.groups)
        self.relu = relu
        self.packed = None
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) of any type to maps of the weight's type."""
        if self.packed is None:
            # The size is a hint: the layout serves other sizes too.
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), *self.options, list(x.shape))
            self.weight = None
        x = x.to(self.packed.dtype, memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, *self.options,
            'relu' if self.relu else 'none', [], '')


def _replace_modules(model: nn.Module,
                     new: dict[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
        if isinstance(parent, ConvModule):
            # Steps that do nothing still take time to call.
            steps = dict(conv=parent.conv, norm=parent.norm,
                         act=getattr(parent, 'activate', None))
            parent.order = tuple(
                step for step in parent.order if steps[step] is not None
                and not isinstance(steps[step], nn.Identity))


def _separate_shared_modules(model: nn.Module) -> None:
    """Give each call site its own module; share the parameters."""
    seen = set()
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, (_ConvNd, _BatchNorm)):
                if child in seen:
                    tensors = (*child.parameters(), *child.buffers())
                    parent._modules[name] = child = copy.deepcopy(
                        child, {id(tensor): tensor for tensor in tensors})
                seen.add(child)


def _watch_outputs(model: nn.Module, run: Callable[[], Any],
                   reader_type: type) -> '_OutputWatcher':
    """Run a model and record what reads its convolutions' outputs."""
    with torch.no_grad(), _OutputWatcher(model, reader_type) as watcher:
        result = run()
    watcher.record_uses(result)
    return watcher


class _OutputWatcher(TorchDispatchMode):
    """Records which modules of a type read convolutions' outputs alone."""

    def __init__(self, model: nn.Module, reader_type: type) -> None:
        super().__init__()
        # Convolutions and their outputs, by the outputs' ids. Outputs are
        # kept, because Python reuses the ids of freed tensors.
        self.outputs = {}
        self._intact = set()  # ids of outputs that were not overwritten
        self._readers = defaultdict(list)  # by id; None is another use
        self._rejected = {None}  # readers that also read something else
        self._depth = 0  # of readers that are being run
        self._handles = []
        for module in model.modules():
            if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
                self._handles.append(
                    module.register_forward_hook(self._after_conv))
            elif isinstance(module, reader_type):
                self._handles += [
                    module.register_forward_pre_hook(self._before_reader),
                    module.register_forward_hook(self._after_reader)]

    def __exit__(self, *args) -> None:
        super().__exit__(*args)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if not self._depth:
            self.record_uses((args, kwargs))
        return func(*args, **kwargs or {})

    def record_uses(self, tree: Any) -> None:
        """Record that something other than a reader uses tensors."""
        for leaf in tree_leaves(tree):
            if id(leaf) in self._intact:
                self._readers[id(leaf)].append(None)

    def _after_conv(self, conv: nn.Module, args: tuple,
                    output: Tensor) -> None:
        self.outputs[id(output)] = conv, output
        self._intact.add(id(output))

    def _before_reader(self, reader: nn.Module, args: tuple) -> None:
        self._depth += 1
        if id(args[0]) in self._intact:
            self._readers[id(args[0])].append(reader)
        else:
            self._rejected.add(reader)

    def _after_reader(self, reader: nn.Module, args: tuple,
                      output: Tensor) -> None:
        self._depth -= 1
        if output is args[0]:
            self._intact.discard(id(output))

    def find_pairs(self) -> dict[nn.Module, nn.Module]:
        """Return convolutions with the only module that reads them."""
        readers_of = defaultdict(set)
        for key, (conv, _) in self.outputs.items():
            readers = self._readers[key]
            readers_of[conv].add(readers[0] if len(readers) == 1 else None)
        pairs = {conv: readers.pop() for conv, readers in readers_of.items()
                 if len(readers) == 1 and _has_weight(conv)}
        rejected = self._rejected.union(
            reader for key, readers in self._readers.items()
            for reader in readers
            if pairs.get(self.outputs[key][0]) is not reader)
        return {conv: reader for conv, reader in pairs.items()
                if reader not in rejected}
