"""Fewer operators: norms into convolutions, activations onto them.

Own work on torch's ``fuse_conv_bn_eval`` and on the operators that Inductor
calls for oneDNN (``mkldnn::_convolution_pointwise``, read in torch 2.11's
``_inductor/fx_passes/mkldnn_fusion.py``), which need no compiler. mmcv
2.1.0's ``fuse_conv_bn`` (read) folds a norm into the convolution that was
*registered* before it, whatever the forward pass does: wrong for pre-activated
layers, which DSOD and DenseNet have. Here one run on images tells what a
convolution's output is used for.
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

    A norm is folded if all it ever gets is the output of plain convolutions
    that goes nowhere else. Modules that stand in several places (a head's
    convolutions shared by levels with norms of their own) are told apart:
    each place gets a convolution of its own.

    Args:
        model (nn.Module): In eval mode.
        run (Callable): Runs the model, whatever the inputs.

    Returns:
        int: How many convolutions have taken up a norm.
    """
    _separate(model)
    pairs = {
        conv: norm
        for conv, norm in _read(model, run, _BatchNorm).pairs().items()
        if norm.running_mean is not None and (
            hasattr(norm, 'act') or type(norm).forward in (
                _BatchNorm.forward, nn.SyncBatchNorm.forward))}
    new = {conv: fuse_conv_bn_eval(conv, norm) for conv, norm in pairs.items()}
    # timm's norms contain the activation.
    new |= {norm: getattr(norm, 'act', nn.Identity().eval())
            for norm in pairs.values()}
    _replace(model, new)
    return len(pairs)


def fuse_convolutions(model: nn.Module, run: Callable[[], Any]) -> int:
    """Have oneDNN compute convolutions, with ReLU where it follows, in place.

    For a CPU. Weights are laid out as oneDNN wants them, once; a ReLU is
    taken in if all it ever gets is the output of such convolutions that goes
    nowhere else. RoI heads, which may get no box at all, are left.

    Args:
        model (nn.Module): In eval mode, its norms folded.
        run (Callable): Runs the model, whatever the inputs.

    Returns:
        int: How many ReLUs were taken in.
    """
    left = {module for head in model.modules()
            if isinstance(head, BaseRoIHead) for module in head.modules()}
    readers = _read(model, run, nn.ReLU)
    convs = {conv for conv, out in readers.outputs.values()
             if type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
             and isinstance(conv.padding, tuple) and conv not in left
             and out.dim() == 4 and out.dtype == torch.float32
             and conv._parameters.get('weight') is not None}
    pairs = readers.pairs()
    stays = {relu for conv, relu in pairs.items() if conv not in convs}
    pairs = {conv: relu for conv, relu in pairs.items() if relu not in stays}
    _replace(model, {conv: OneDNNConv2d(conv, conv in pairs)
                     for conv in convs} |
             {relu: nn.Identity().eval() for relu in pairs.values()})
    return len(pairs)


class OneDNNConv2d(nn.Module):
    """A convolution by oneDNN, its weight laid out once, ReLU with it.

    Args:
        conv (nn.Conv2d): The convolution; its weight sets the precision.
        relu (bool): Whether ReLU follows.
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
        """Map (N, C, H, W), any type, to maps of the weight's type."""
        if self.packed is None:
            # The size is a hint: the layout serves others too.
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), *self.options, list(x.shape))
            self.weight = None
        x = x.to(self.packed.dtype, memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, *self.options,
            'relu' if self.relu else 'none', [], '')


def _replace(model: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Put modules in the places of others."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
        if isinstance(parent, ConvModule):
            # Steps that do nothing cost what starting them costs.
            steps = dict(conv=parent.conv, norm=parent.norm,
                         act=getattr(parent, 'activate', None))
            parent.order = tuple(
                step for step in parent.order if steps[step] is not None
                and not isinstance(steps[step], nn.Identity))


def _read(model: nn.Module, run: Callable[[], Any],
          kind: type) -> '_Readers':
    """Run a model and watch it."""
    with torch.no_grad(), _Readers(model, kind) as readers:
        readers.result = run()
    return readers


def _separate(model: nn.Module) -> None:
    """Let no convolution or norm stand in two places; tensors stay shared."""
    seen = set()
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, (_ConvNd, _BatchNorm)):
                if child in seen:
                    tensors = (*child.parameters(), *child.buffers())
                    parent._modules[name] = child = copy.deepcopy(
                        child, {id(tensor): tensor for tensor in tensors})
                seen.add(child)


class _Readers(TorchDispatchMode):
    """Watches what reads the outputs of a model's convolutions.

    Args:
        model (nn.Module): Its convolutions are watched.
        kind (type): Class of the modules that may read them; one that gets
            anything else, too, does not count.
    """

    def __init__(self, model: nn.Module, kind: type) -> None:
        super().__init__()
        self.result = None  # of the run
        self.outputs = {}  # by id, with the convolution; kept, so is the id
        self._read = set()  # ids of those that something else reads
        self._readers = defaultdict(list)  # of each id
        self._others = set()  # readers of something else
        self._over = set()  # ids that a reader has overwritten
        self._inside = 0
        self._handles = []
        for module in model.modules():
            if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
                hooks = (module.register_forward_hook(self._after_conv), )
            elif isinstance(module, kind):
                hooks = (module.register_forward_pre_hook(self._before),
                         module.register_forward_hook(self._after))
            else:
                continue
            self._handles += hooks

    def __exit__(self, *args) -> None:
        super().__exit__(*args)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if not self._inside:
            self._note(tree_leaves((args, kwargs)))
        return func(*args, **kwargs or {})

    def _note(self, leaves: list) -> None:
        """Note what is read, if it is alive: ids are given again."""
        self._read.update(id(leaf) for leaf in leaves
                          if id(leaf) in self.outputs
                          and id(leaf) not in self._over)

    def _after_conv(self, conv: nn.Module, args: tuple, out: Tensor) -> None:
        self.outputs[id(out)] = conv, out

    def _before(self, reader: nn.Module, args: tuple) -> None:
        self._inside += 1
        key = id(args[0])
        if key in self.outputs and key not in self._over:
            self._readers[key].append(reader)
        else:
            self._others.add(reader)

    def _after(self, reader: nn.Module, args: tuple, out: Tensor) -> None:
        self._inside -= 1
        if out is args[0]:
            self._over.add(id(out))

    def pairs(self) -> dict[nn.Module, nn.Module]:
        """Convolutions with their readers."""
        self._note(tree_leaves(self.result))
        after = defaultdict(set)  # None stands for any other use
        for key, (conv, _) in self.outputs.items():
            readers = self._readers[key]
            after[conv].update(readers if len(readers) == 1 and
                               key not in self._read else [None])
        # Spectral norm's weight, for one, is no parameter but computed.
        found = {conv: readers.pop() for conv, readers in after.items()
                 if len(readers) == 1 and conv._parameters.get('weight')
                 is not None}
        stays = self._others | {None} | {
            reader for key, readers in self._readers.items()
            for reader in readers
            if found.get(self.outputs[key][0]) is not reader}
        return {conv: reader for conv, reader in found.items()
                if reader not in stays}
