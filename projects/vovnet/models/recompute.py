"""Training memory: keep the convolutions' outputs, recompute what is cheap.

One-Shot Aggregation stores every map three times: before BN, after ReLU and
inside the concatenation. The first is enough. Normalising and activating are
one pass over memory each, so they are done again in the backward pass, one
layer at a time; the concatenation is not needed there at all, since the 1x1
convolution behind it is a sum of 1x1 convolutions of its sources.

Own work. The idea of keeping less than all three is that of Pleiss et al.,
"Memory-Efficient Implementation of DenseNets", arXiv:1707.06990, and of Rota
Bulo et al., "In-Place Activated BatchNorm", arXiv:1712.02616. Different here:
BN is recomputed from its saved statistics, on a CPU bit by bit what it was;
there is no concatenation in the backward pass; eSE is part of it.

Names below: ``z`` is what a layer's convolution gives, ``h`` what its norm and
activation make of it; ``dz`` and ``dh`` are the gradients of these.
"""
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair
from torch.utils.checkpoint import checkpoint

# Functions of their input and their weight, and of nothing else.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU,
               nn.SiLU, nn.Mish, nn.Hardswish)

aten = torch.ops.aten
# A weight or a bias, by its owner and its name.
Slot = tuple[nn.Module, str]


class Layer(NamedTuple):
    """A convolution with its norm and activation, where it has them."""
    conv: nn.Conv2d
    norm: nn.Module | None
    act: nn.Module | None


class Segment:
    """Layers that are recomputed together: a chain, or an OSA block.

    Args:
        module (nn.Module): What computes the same.
        parts (Iterable[tuple[nn.Module, bool]]): The chain: ConvModule,
            DepthwiseSeparableConvModule or sequences of them, each with
            whether ``aggregation`` takes its output.
        aggregation (ConvModule, optional): A 1x1 convolution of the input
            and these outputs, concatenated.
        gate (nn.Conv2d, optional): The 1x1 convolution of eSE, behind it.
        residual (bool): Whether the input is added to the output.
        pool (nn.MaxPool2d, optional): What follows the module; not with
            ``gate`` or ``residual``.

    Attributes:
        layers (list[Layer]): In the order of computation.
        channels (dict[int, slice]): For each map that is concatenated, which
            channels it becomes; 0 is the input, i the i-th layer's output.
        slots (list[Slot]): All weights.
    """

    def __init__(self, module: nn.Module,
                 parts: Iterable[tuple[nn.Module, bool]],
                 aggregation: ConvModule | None = None,
                 gate: nn.Conv2d | None = None,
                 residual: bool = False,
                 pool: nn.MaxPool2d | None = None) -> None:
        self.module, self.pool = module, pool
        self.gate, self.residual = gate, residual
        self.layers: list[Layer] = []
        taken = []
        for part, is_taken in parts:
            self.layers += _layers(part)
            if is_taken:
                taken.append(len(self.layers))
        self.channels: dict[int, slice] = {}
        if aggregation is not None:
            stop = self.layers[0].conv.in_channels
            self.channels[0] = slice(0, stop)
            for number in taken:
                start = stop
                stop += self.layers[number - 1].conv.out_channels
                self.channels[number] = slice(start, stop)
            self.layers += _layers(aggregation)
        modules = [m for layer in self.layers for m in layer] + [gate]
        self.slots = [(m, name) for m in modules for name in ('weight', 'bias')
                      if getattr(m, name, None) is not None]

    def convolve(self, x: Tensor, conv: Callable[[Layer, Tensor], Tensor],
                 activate: Callable[[Layer, Tensor], Tensor]) -> list[Tensor]:
        """Compute ``z`` of each layer.

        Args:
            x (Tensor): The input (N, C, H, W).
            conv (Callable): Gives a layer's ``z`` of its input.
            activate (Callable): Gives a layer's ``h`` of its ``z``.

        Returns:
            list[Tensor]: In the order of the layers.
        """
        zs, h, joined = [], x, None
        for number, layer in enumerate(self.layers):
            if number:
                h = activate(self.layers[number - 1], zs[-1])
            if number in self.channels:
                # Each map is put into the concatenation at once, so that it
                # need not be kept until then.
                if joined is None and number:
                    joined = _empty_like(h, self.layers[-1].conv.in_channels)
                    joined[:, self.channels[0]] = x
                if number:
                    joined[:, self.channels[number]] = h
            if self.channels and number == len(self.layers) - 1:
                h = joined
            zs.append(conv(layer, h))
        return zs

    def __call__(self, x: Tensor) -> Tensor:
        """Run the module and the pool as they are."""
        x = self.module(x)
        return x if self.pool is None else self.pool(x)

    def is_faithful(self) -> bool:
        """Whether the layers are all that is run, and can be recomputed."""
        known = {m for layer in self.layers for m in layer} | {self.gate}
        for m in (*self.module.modules(), self.pool):
            if m is None:
                continue
            if (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
                    or m._backward_pre_hooks or 'forward' in vars(m)):
                return False
            if m not in known and m is not self.pool and not m._modules and \
                    not isinstance(m, nn.Identity):
                return False
            if isinstance(m, ConvModule) and (
                    m.order != ('conv', 'norm', 'act')
                    or m.with_explicit_padding
                    or m.efficient_conv_bn_eval_forward):
                return False
        return all(
            type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
            and isinstance(norm, (_BatchNorm, nn.GroupNorm, type(None)))
            and isinstance(act, (*ACTIVATIONS, type(None)))
            for conv, norm, act in self.layers)


def recompute(segment: Segment, x: Tensor, keep_convolutions: bool) -> Tensor:
    """Run a segment so that little is kept for its backward pass.

    A module with hooks or with layers of other kinds runs as ever if
    ``keep_convolutions``, else as ``torch.utils.checkpoint`` has it.

    Args:
        segment (Segment): Has the module.
        x (Tensor): The input (N, C, H, W).
        keep_convolutions (bool): Keep the input and all that convolutions
            give, so that none of them runs again; else the input alone.

    Returns:
        Tensor: What the module gives, behind the pool; gradients and buffers
        become what they would have. It cannot be differentiated twice.
    """
    if keep_convolutions and torch.compiler.is_compiling():
        # A compiler recomputes what is pointwise of its own accord.
        return segment(x)
    return _recompute(segment, x, keep_convolutions)


@torch.compiler.disable
def _recompute(segment: Segment, x: Tensor, keep_convolutions: bool) -> Tensor:
    if segment.is_faithful():
        weights = [getattr(module, name) for module, name in segment.slots]
        return _Recompute.apply(segment, keep_convolutions, x, *weights)
    if keep_convolutions:
        return segment(x)
    return checkpoint(
        segment, x, use_reentrant=False, context_fn=lambda: (
            nullcontext(), _scratch_buffers(segment.module)))


class _Recompute(torch.autograd.Function):
    """A segment as one function, of its input and its weights."""

    @staticmethod
    def forward(ctx: FunctionCtx, segment: Segment, keep_convolutions: bool,
                x: Tensor, *weights: Tensor) -> Tensor:
        """Compute what the module would, by its layers."""
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device),
                        torch.is_autocast_enabled(device))
        ctx.segment, ctx.batch = segment, []
        statistics = []

        def activate(layer: Layer, z: Tensor) -> Tensor:
            h, batch, *found = _normalise(layer.norm, z)
            ctx.batch.append(batch)
            statistics.extend(found)
            # Activations may work in place, and z is kept.
            return h if layer.act is None else layer.act(
                h.clone() if h is z else h)

        zs = segment.convolve(x, lambda layer, h: layer.conv(h), activate)
        y = activate(segment.layers[-1], zs[-1])
        pooled = squeezed = indices = None
        if segment.gate is not None:
            pooled = F.adaptive_avg_pool2d(y, 1)
            squeezed = segment.gate(pooled)
            y = y * F.hardsigmoid(squeezed)
        if segment.residual:
            y = y + x
        if segment.pool is not None:
            y, indices = _pool(segment.pool, y)
            # int64 is more than any map needs.
            indices = indices.int() if keep_convolutions else None
        ctx.save_for_backward(
            x, pooled, squeezed, indices, *statistics, *weights,
            *(zs if keep_convolutions else ()))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple:
        """Walk back through the layers, from one map to the one before."""
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled):
            back = _Backward(ctx)
            dx = back.walk(dy, ctx.needs_input_grad[2])
        return None, None, dx, *map(back.grads.get, ctx.segment.slots)


class _Backward:
    """The backward pass of a segment.

    Args:
        ctx: Of :class:`_Recompute`.

    Attributes:
        grads (dict[Slot, Tensor]): What has been found of the weights.
    """

    def __init__(self, ctx: FunctionCtx) -> None:
        self.segment = segment = ctx.segment
        count = len(segment.layers)
        (self.x, self.pooled, self.squeezed, self.indices,
         *rest) = ctx.saved_tensors
        self.memos = {
            layer: (batch, *rest[2 * i:2 * i + 2])
            for i, (layer, batch) in enumerate(zip(segment.layers, ctx.batch))}
        rest = rest[2 * count:]
        self.weights = dict(zip(segment.slots, rest))
        self.needed = dict(zip(segment.slots, ctx.needs_input_grad[3:]))
        self.grads: dict[Slot, Tensor] = {}
        self.zs = rest[len(segment.slots):] or segment.convolve(
            self.x, self._convolve, lambda *args: self._activated(*args).h)

    def walk(self, dy: Tensor, needs_dx: bool) -> Tensor | None:
        """Find the gradients of the weights and of the input.

        Args:
            dy (Tensor): Gradient of the output.
            needs_dx (bool): Whether that of the input is wanted.

        Returns:
            Tensor | None: Gradient of the input.
        """
        layers, channels = self.segment.layers, self.segment.channels
        above = self._activated(layers[-1], self.zs.pop())
        dh = dy
        if self.segment.pool is not None:
            dh = self._unpool(above.h, dy)
        if self.segment.gate is not None:
            dh = self._gate(above.h, dy)
        dz = dz_joined = self._down(above, dh, owned=dh is not dy)
        for number in reversed(range(len(layers))):
            below = (self._activated(layers[number - 1], self.zs.pop())
                     if number else None)
            h, needs = (below.h, True) if number else (self.x, needs_dx)
            dh = None
            if not channels or number < len(layers) - 1:
                dh = self._convolution(layers[number].conv, dz, h, needs)
            if number in channels:
                dh = self._convolution(layers[-1].conv, dz_joined, h, needs,
                                       channels[number], dh)
            del h
            if below is not None:
                dz = self._down(below, dh, owned=True)
        if self.segment.residual and needs_dx:
            dh = dh + dy
        return dh

    def _convolve(self, layer: Layer, h: Tensor) -> Tensor:
        weight = self.weights[layer.conv, 'weight']
        bias = self.weights.get((layer.conv, 'bias'))
        if not _is_product(layer.conv, h):
            return layer.conv._conv_forward(h, weight, bias)
        matrix = weight.flatten(1).expand(len(h), -1, -1)
        z = torch.bmm(matrix, h.flatten(2)).unflatten(2, h.shape[2:])
        return z if bias is None else z.add_(bias[:, None, None])

    def _convolution(self, conv: nn.Conv2d, dz: Tensor, h: Tensor,
                     needs_dh: bool, channels: slice = slice(None),
                     dh: Tensor | None = None) -> Tensor | None:
        """Go back through a convolution of ``h``.

        Args:
            conv (nn.Conv2d): The convolution.
            dz (Tensor): Gradient of its output.
            h (Tensor): Its input, or these channels of it.
            needs_dh (bool): Whether the gradient of ``h`` is wanted.
            channels (slice): Which of its input channels ``h`` is.
            dh (Tensor, optional): What is known of that gradient; it may be
                overwritten.

        Returns:
            Tensor | None: Gradient of ``h``.
        """
        slot, bias = (conv, 'weight'), (conv, 'bias')
        weight = self.weights[slot]
        needs = [needs_dh, self.needed[slot], not channels.start
                 and self.needed.get(bias, False)]
        go = _product_backward if _is_product(conv, dz, h) else \
            _convolution_backward
        # What autocast has multiplied is of the output's type.
        part, dw, db = go(conv, dz, h.to(dz.dtype),
                          weight[:, channels].to(dz.dtype), needs)
        if needs[1]:
            if channels == slice(None):
                self.grads[slot] = dw.to(weight.dtype)
            else:
                if slot not in self.grads:
                    self.grads[slot] = torch.empty_like(weight)
                self.grads[slot][:, channels] = dw
        if needs[2]:
            self.grads[bias] = db.to(self.weights[bias].dtype)
        if not needs_dh:
            return None
        part = part.to(h.dtype)
        return part if dh is None else dh.add_(part)

    def _gate(self, h: Tensor, dy: Tensor) -> Tensor:
        """Go back through eSE: y = h * hardsigmoid(fc(mean of h))."""
        dy = dy.to(h.dtype)
        dgate = (dy * h).sum((2, 3), keepdim=True).to(self.squeezed.dtype)
        dpooled = self._convolution(
            self.segment.gate, aten.hardsigmoid_backward(dgate, self.squeezed),
            self.pooled, True)
        dh = dy * F.hardsigmoid(self.squeezed)
        return dh.add_(dpooled / (h.shape[2] * h.shape[3]))

    def _unpool(self, h: Tensor, dy: Tensor) -> Tensor:
        pool, indices = self.segment.pool, self.indices
        indices = _pool(pool, h)[1] if indices is None else indices.long()
        return aten.max_pool2d_with_indices_backward(
            dy, h, _pair(pool.kernel_size), _pair(pool.stride),
            _pair(pool.padding), _pair(pool.dilation), pool.ceil_mode,
            indices)

    def _activated(self, layer: Layer, z: Tensor) -> '_Activated':
        kind = (_BatchNormReLU if type(layer.norm) is nn.BatchNorm2d
                and type(layer.act) is nn.ReLU else _Activated)
        return kind(layer, z, self.weights, self.needed, *self.memos[layer])

    def _down(self, activated: '_Activated', dh: Tensor,
              owned: bool) -> Tensor:
        dz, grads = activated.backward(dh, owned)
        self.grads.update(grads)
        return dz


class _Activated:
    """What norm and activation make of ``z``, by their own modules.

    Args:
        layer (Layer): Whose they are.
        z (Tensor): Of its convolution.
        weights (dict[Slot, Tensor]): As they were in the forward pass.
        needed (dict[Slot, bool]): Whose gradient is wanted.
        batch (bool): Whether the norm layer was in training mode.

    Attributes:
        h (Tensor | None): The result, until :meth:`backward`.
    """

    def __init__(self, layer: Layer, z: Tensor, weights: dict[Slot, Tensor],
                 needed: dict[Slot, bool], batch: bool, *_) -> None:
        modules = nn.Sequential(*(m for m in layer[1:] if m is not None))
        names = {(m, name): f'{i}.{name}' for i, m in enumerate(modules)
                 for name, _ in m.named_parameters()}
        # Aliases: hooks on the parameters are autograd's to call, once.
        aliases = {slot: weights[slot].detach().requires_grad_(needed[slot])
                   for slot in names}
        state = {names[slot]: alias for slot, alias in aliases.items()}
        if batch:  # running statistics have moved already
            state.update((k, b.clone()) for k, b in modules.named_buffers())
        with torch.enable_grad(), _training(layer.norm, batch):
            z = start = z.detach().requires_grad_()
            if layer.norm is None:  # activations may work in place
                start = z.view_as(z) if layer.act is None else z.clone()
            h = functional_call(modules, state, (start, ))
        self.slots = [slot for slot in names if needed[slot]]
        self.leaves = [z, *(aliases[slot] for slot in self.slots)]
        self.edge, self.h = get_gradient_edge(h), h.detach()

    def backward(self, dh: Tensor, owned: bool
                 ) -> tuple[Tensor, dict[Slot, Tensor]]:
        """Go back to ``z``, once.

        Args:
            dh (Tensor): Gradient of ``h``.
            owned (bool): Whether it may be overwritten.

        Returns:
            tuple: Gradients of ``z`` and of the weights that are needed.
        """
        self.h = None
        dz, *found = torch.autograd.grad([self.edge], self.leaves, [dh])
        return dz, dict(zip(self.slots, found))


class _BatchNormReLU(_Activated):
    """The same for BN and ReLU, from the statistics of the forward pass.

    Args:
        batch (bool): Whether these were the batch's.
        mean (Tensor): Mean.
        spread (Tensor): Of a batch 1 / sqrt(variance + eps), else the
            running variance.
    """

    def __init__(self, layer: Layer, z: Tensor, weights: dict[Slot, Tensor],
                 needed: dict[Slot, bool], batch: bool, mean: Tensor,
                 spread: Tensor) -> None:
        self.norm, self.z, self.needed = layer.norm, z, needed
        self.batch, self.mean, self.spread = batch, mean, spread
        self.weight = weights.get((layer.norm, 'weight'))
        bias = weights.get((layer.norm, 'bias'))
        if batch:
            # What BN's kernels do is h = gain * z + shift. The operator for
            # running statistics does just this if they are 0 and 1.
            ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
            gain = spread if self.weight is None else self.weight * spread
            shift = torch.addcmul(
                zeros if bias is None else bias, mean, gain, value=-1)
            h, *_ = torch.native_batch_norm(
                z, gain, shift, zeros, ones, False, 0., 0.)
        else:
            h, *_ = torch.native_batch_norm(
                z, self.weight, bias, mean, spread, False, 0., self.norm.eps)
        self.h = h.relu_()

    def backward(self, dh: Tensor, owned: bool
                 ) -> tuple[Tensor, dict[Slot, Tensor]]:
        """See above."""
        dh = aten.threshold_backward.grad_input(
            dh, self.h, 0, grad_input=dh if owned else torch.empty_like(dh))
        self.h = None
        running = (None, None) if self.batch else (self.mean, self.spread)
        saved = (self.mean, self.spread) if self.batch else (None, None)
        slots = [(self.norm, 'weight'), (self.norm, 'bias')]
        needs = [self.needed.get(slot, False) for slot in slots]
        dz, *found = aten.native_batch_norm_backward(
            dh, self.z, self.weight, *running, *saved, self.batch,
            self.norm.eps, [True, *needs])
        return dz, {slot: grad for slot, grad, need
                    in zip(slots, found, needs) if need}


def _normalise(norm: nn.Module | None, z: Tensor
               ) -> tuple[Tensor, bool, Tensor | None, Tensor | None]:
    """Apply a norm layer, and note what recomputes it.

    Returns:
        tuple: The result, and the arguments ``batch``, ``mean`` and
        ``spread`` of :class:`_BatchNormReLU`.
    """
    if norm is None:
        return z, False, None, None
    if type(norm) is not nn.BatchNorm2d:
        return norm(z), norm.training, None, None
    if not norm.training and norm.running_mean is not None:
        return norm(z), False, norm.running_mean, norm.running_var
    # Autograd notes the statistics; hooks shall not see what else it saves.
    detach = Tensor.detach
    with torch.enable_grad(), saved_tensors_hooks(detach, detach):
        h = norm(z.detach().requires_grad_())
    node = h.grad_fn
    return h.detach(), True, node._saved_result1, node._saved_result2


def _is_product(conv: nn.Conv2d, *maps: Tensor) -> bool:
    """Whether a convolution is a plain matrix product, on a CPU.

    There oneDNN reorders the maps before and after it convolves them, which
    takes longer than the product and as much memory as they do.
    """
    return (conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
            and conv.padding == (0, 0) and maps[0].device.type == 'cpu'
            and all(m.is_contiguous() and m.shape[-1] > 1 for m in maps))


def _product_backward(conv: nn.Conv2d, dz: Tensor, h: Tensor, weight: Tensor,
                      needs: list[bool]) -> tuple:
    """As :func:`_convolution_backward`, where :func:`_is_product`."""
    dh = dw = db = None
    if needs[0]:
        matrix = weight.flatten(1).t().expand(len(dz), -1, -1)
        dh = torch.bmm(matrix, dz.flatten(2)).view_as(h)
    if needs[1]:
        dw = weight.new_zeros(weight.shape[:2], dtype=torch.promote_types(
            weight.dtype, torch.float))  # the sum, also of half precision
        for image, gradient in zip(h.flatten(2), dz.flatten(2)):
            dw += gradient @ image.t()
        dw = dw[..., None, None]
    if needs[2]:
        db = dz.sum((0, 2, 3))
    return dh, dw, db


def _convolution_backward(conv: nn.Conv2d, dz: Tensor, h: Tensor,
                          weight: Tensor, needs: list[bool]) -> tuple:
    """Go back through a convolution.

    Returns:
        tuple: Gradients of ``h``, the weight and the bias; None where none
        is needed.
    """
    return aten.convolution_backward(
        dz, h, weight, [conv.out_channels], conv.stride, conv.padding,
        conv.dilation, False, [0, 0], conv.groups, needs)


def _pool(pool: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pool, and tell which pixels were the largest."""
    return F.max_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.dilation,
        pool.ceil_mode, return_indices=True)


def _layers(module: nn.Module) -> Iterator[Layer]:
    if isinstance(module, ConvModule):
        yield Layer(module.conv, module.norm,
                    module.activate if module.with_activation else None)
    else:  # a sequence, or a depthwise and a pointwise convolution
        for child in module.children():
            yield from _layers(child)


def _empty_like(x: Tensor, channels: int) -> Tensor:
    """A new tensor with another number of channels."""
    last = x.is_contiguous(memory_format=torch.channels_last) and \
        not x.is_contiguous()
    return torch.empty(
        (len(x), channels, *x.shape[2:]), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format)


@contextmanager
def _training(norm: nn.Module | None, mode: bool) -> Iterator[None]:
    """Put a norm layer into the mode that it was in."""
    if norm is None:
        yield
        return
    before, norm.training = norm.training, mode
    try:
        yield
    finally:
        norm.training = before


@contextmanager
def _scratch_buffers(module: nn.Module) -> Iterator[None]:
    """Let ``module`` write to copies of its buffers.

    A checkpointed forward runs twice, and only the first run may move the
    running statistics of batch norm. Copies, since autograd wants to find the
    same tensors saved in both runs.
    """
    owners = [m for m in module.modules() if m.training and m._buffers]
    buffers = [dict(m._buffers) for m in owners]
    for owner in owners:
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for owner, originals in zip(owners, buffers):
            owner._buffers.update(originals)
