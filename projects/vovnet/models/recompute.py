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
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.func import functional_call
from torch.nn.modules import module as nn_module
from torch.nn.modules._functions import SyncBatchNorm as sync_batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair
from torch.utils.checkpoint import checkpoint

# Functions of their input and their weight, and of nothing else.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU,
               nn.SiLU, nn.Mish, nn.Hardswish)
# What norm layers run that are known by their statistics.
BATCH_NORMS = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
# Of a module, and of all modules.
HOOKS = ('forward_pre_hooks', 'forward_hooks', 'backward_pre_hooks',
         'backward_hooks')

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
            whether ``aggregation`` takes its output. None if it is not known
            what the module does.
        aggregation (ConvModule, optional): A 1x1 convolution of the input
            and these outputs, concatenated.
        gate (nn.Conv2d, optional): The 1x1 convolution of eSE, behind it.
        residual (bool): Whether the input is added to the output.
        pool (nn.Module, optional): The max-pool behind the module.

    Attributes:
        layers (list[Layer]): In the order of computation.
        channels (dict[int, slice]): For each map that is concatenated, which
            channels it becomes; 0 is the input, i the i-th layer's output.
        slots (list[Slot]): All weights.
    """

    def __init__(self, module: nn.Module,
                 parts: Iterable[tuple[nn.Module, bool]] = (),
                 aggregation: ConvModule | None = None,
                 gate: nn.Conv2d | None = None,
                 residual: bool = False,
                 pool: nn.Module | None = None) -> None:
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

    def chain(self, x: Tensor, zs: list[Tensor],
              conv: Callable[[Layer, Tensor], Tensor],
              activate: Callable[[Layer, Tensor], Tensor]
              ) -> Iterator[tuple[slice, Tensor]]:
        """Compute ``z`` of each layer but the aggregating one.

        Args:
            x (Tensor): The input (N, C, H, W).
            zs (list[Tensor]): Gets them, in the order of the layers.
            conv (Callable): Gives a layer's ``z`` of its input.
            activate (Callable): Gives a layer's ``h`` of its ``z``.

        Yields:
            tuple[slice, Tensor]: Each map that is concatenated with ``x``,
            and the channels that it becomes. It is needed no longer than
            until the next.
        """
        h = x
        for number, layer in enumerate(self.layers):
            if number:
                h = None
                h = activate(self.layers[number - 1], zs[-1])
                if number in self.channels:
                    yield self.channels[number], h
            if not self.channels or number < len(self.layers) - 1:
                zs.append(conv(layer, h))

    def join(self, joined: Tensor | None, x: Tensor, channels: slice,
             h: Tensor) -> Tensor:
        """Put what :meth:`chain` yields into the concatenation.

        At once, so that no map need be kept until all are there.

        Args:
            joined (Tensor, optional): What this gave for the map before.
            x (Tensor): The input (N, C, H, W).
            channels (slice): What the map becomes.
            h (Tensor): The map.

        Returns:
            Tensor: The concatenation, as far as it is known.
        """
        if joined is None:
            joined = _empty_like(h, self.layers[-1].conv.in_channels)
            joined[:, self.channels[0]] = x
        joined[:, channels] = h
        return joined

    def __call__(self, x: Tensor, state: dict[str, Tensor] | None = None
                 ) -> tuple[Tensor, ...]:
        """Run the module and the pool as they are.

        Args:
            x (Tensor): The input (N, C, H, W).
            state (dict[str, Tensor], optional): In place of the module's own
                weights and buffers.

        Returns:
            tuple[Tensor, ...]: What they give; one map without a pool.
        """
        y = (self.module(x) if state is None else
             functional_call(self.module, state, (x, )))
        return (y, ) if self.pool is None else (y, self.pool(y))

    def is_faithful(self) -> bool:
        """Whether the layers are all that is run, and can be recomputed."""
        known = {m for layer in self.layers for m in layer} | {self.gate}
        pools = [] if self.pool is None else [self.pool]
        for m in (*self.module.modules(), *pools):
            if is_hooked(m):
                return False
            if m not in known and m not in pools and not m._modules and \
                    not isinstance(m, nn.Identity):
                return False
            if isinstance(m, ConvModule) and (
                    m.order != ('conv', 'norm', 'act')
                    or m.with_explicit_padding
                    or m.efficient_conv_bn_eval_forward):
                return False
        return bool(self.layers) and all(
            type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
            and isinstance(norm, (_BatchNorm, nn.GroupNorm, type(None)))
            and isinstance(act, (*ACTIVATIONS, type(None)))
            for conv, norm, act in self.layers) and all(
            type(pool) is nn.MaxPool2d and not pool.return_indices
            for pool in pools) and not any(
            getattr(nn_module, f'_global_{kind}') for kind in HOOKS)


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module does more than its class says."""
    return 'forward' in vars(module) or any(
        getattr(module, f'_{kind}') for kind in HOOKS)


@torch.compiler.disable
def recompute(segment: Segment, x: Tensor, keep_convolutions: bool
              ) -> tuple[Tensor, ...]:
    """Run a segment so that little is kept for its backward pass.

    A module with hooks or with layers of other kinds runs as ever if
    ``keep_convolutions``, else as ``torch.utils.checkpoint`` has it. What is
    traced or transformed by ``torch.func`` runs as ever.

    Args:
        segment (Segment): Has the module.
        x (Tensor): The input (N, C, H, W).
        keep_convolutions (bool): Keep the input and all that convolutions
            give, so that none of them runs again; else the input alone.

    Returns:
        tuple[Tensor, ...]: What the segment gives; gradients and buffers
        become what they would have.
    """
    weights = [getattr(module, name) for module, name in segment.slots]
    if _is_plain(x, *weights):
        if segment.is_faithful():
            return _Recompute.apply(segment, keep_convolutions, x, *weights)
        if not keep_convolutions:
            return checkpoint(
                segment, x, use_reentrant=False, context_fn=lambda: (
                    nullcontext(), _scratch_buffers(segment.module)))
    return segment(x)


def _is_plain(*tensors: Tensor) -> bool:
    """Whether tensors are to be differentiated, and in reverse only."""
    return (all(isinstance(t, Tensor) for t in tensors)  # of torch.fx no more
            and all(t.numel() for t in tensors)  # torch notes nothing of none
            and any(t.requires_grad for t in tensors)
            and not torch.jit.is_tracing()
            and not torch._C._are_functorch_transforms_active()
            and all(unpack_dual(t).tangent is None for t in tensors))


class _Recompute(torch.autograd.Function):
    """A segment as one function, of its input and its weights."""

    @staticmethod
    def forward(ctx: FunctionCtx, segment: Segment, keep_convolutions: bool,
                x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Compute what the module would, by its layers."""
        ctx.set_materialize_grads(False)
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

        zs, joined, last = [], None, segment.layers[-1]
        for channels, h in segment.chain(
                x, zs, lambda layer, h: layer.conv(h), activate):
            joined = segment.join(joined, x, channels, h)
            del h
        if joined is not None:
            zs.append(last.conv(joined))
        y = activate(last, zs[-1])
        pooled = squeezed = None
        if segment.gate is not None:
            pooled = F.adaptive_avg_pool2d(y, 1)
            squeezed = segment.gate(pooled)
            y = y * F.hardsigmoid(squeezed)
        if segment.residual:
            y = y + x
        outs, indices = [y], None
        if segment.pool is not None:
            out, indices = _pool(segment.pool, y)
            outs.append(out)
            # int64 is more than any map needs.
            indices = indices.int() if keep_convolutions else None
        ctx.save_for_backward(
            x, pooled, squeezed, indices, *statistics, *weights,
            *(zs if keep_convolutions else ()))
        return tuple(outs)

    @staticmethod
    def backward(ctx: FunctionCtx, *dys: Tensor | None) -> tuple:
        """Walk back through the layers, from one map to the one before."""
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled):
            back = _Backward(ctx)
            if torch.is_grad_enabled():  # with create_graph
                return None, None, *back.differentiably(dys)
            dx = back.walk(*dys)
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
            layer: (batch, *rest[3 * i:3 * i + 3])
            for i, (layer, batch) in enumerate(zip(segment.layers, ctx.batch))}
        rest = rest[3 * count:]
        self.weights = dict(zip(segment.slots, rest))
        self.zs = rest[len(segment.slots):]
        self.needs_dx, *needed = ctx.needs_input_grad[2:]
        self.needed = dict(zip(segment.slots, needed))
        self.grads: dict[Slot, Tensor] = {}

    def differentiably(self, dys: tuple[Tensor | None, ...]
                       ) -> Iterator[Tensor | None]:
        """Find the gradients as functions of all that they depend on.

        Args:
            dys (tuple[Tensor | None, ...]): Gradients of the outputs.

        Yields:
            Tensor | None: Gradient of the input and of each weight.
        """
        segment = self.segment
        names = {m: name for name, m in segment.module.named_modules()}
        state = {f'{names[module]}.{name}': weight
                 for (module, name), weight in self.weights.items()}
        state.update((name, buffer.clone())  # they have moved already
                     for name, buffer in segment.module.named_buffers())
        with ExitStack() as modes:
            for layer, (batch, *_) in self.memos.items():
                modes.enter_context(_training(layer.norm, batch))
            ys = segment(self.x, state)
        needed = [self.needs_dx, *self.needed.values()]
        inputs = [t for t, needs in zip(
            (self.x, *self.weights.values()), needed) if needs]
        ys, dys = zip(*((y, dy) for y, dy in zip(ys, dys) if dy is not None))
        found = iter(torch.autograd.grad(ys, inputs, dys, create_graph=True))
        return (next(found) if needs else None for needs in needed)

    def walk(self, dy: Tensor | None, dpool: Tensor | None = None
             ) -> Tensor | None:
        """Find the gradients of the weights and of the input.

        Args:
            dy (Tensor, optional): Gradient of what the module gave.
            dpool (Tensor, optional): Gradient of what the pool gave.

        Returns:
            Tensor | None: Gradient of the input, where it is needed.
        """
        layers, channels = self.segment.layers, self.segment.channels
        zs = self.zs or self._convolve_again()
        z = zs.pop()
        dh = dy
        if dpool is not None:
            dh = self._unpool(z, dpool)
            dy = dh if dy is None else dh.add_(dy)
        above = self._activated(layers[-1], z)
        # A residual of a wider type has widened the output.
        dh = dh.to(above.h.dtype)
        # dy is the caller's, or is needed again.
        owned = dpool is not None and not self.segment.residual
        if self.segment.gate is not None:
            dh, owned = self._gate(above.h, dh, owned), True
        dz = dz_joined = self._down(above, dh, owned)
        above = z = dh = None
        if not self.segment.residual:
            dy = None
        for number in reversed(range(len(layers))):
            below = (self._activated(layers[number - 1], zs.pop())
                     if number else None)
            h, needs = (below.h, True) if number else (self.x, self.needs_dx)
            dh = None
            if not channels or number < len(layers) - 1:
                dh = self._convolution(layers[number].conv, dz, h, needs)
            if number in channels:
                dh = self._convolution(layers[-1].conv, dz_joined, h, needs,
                                       channels[number], dh)
            del h
            dz = None
            if below is not None:
                dz = self._down(below, dh, owned=True)
            below = None
        if self.segment.residual and self.needs_dx:
            dh.add_(dy)
        return dh

    def _convolve_again(self) -> list[Tensor]:
        """Compute ``z`` of each layer."""
        segment, x = self.segment, self.x
        zs, z, joined, last = [], None, None, segment.layers[-1]
        for channels, h in segment.chain(
                x, zs, self._convolve,
                lambda *args: self._activated(*args).h):
            # Where sums of sums are not rounded, without a concatenation.
            if _is_product(last.conv, h) and not torch.is_autocast_enabled(
                    x.device.type):
                if z is None:
                    z = self._convolve(last, x, segment.channels[0])
                z.flatten(2).baddbmm_(
                    self._matrix(last.conv, channels, len(h)), h.flatten(2))
            else:
                joined = segment.join(joined, x, channels, h)
            del h
        if joined is not None:
            z = self._convolve(last, joined)
        return zs if z is None else [*zs, z]

    def _convolve(self, layer: Layer, h: Tensor,
                  channels: slice = slice(None)) -> Tensor:
        """Compute ``z`` of a layer, or what these channels give of it."""
        conv = layer.conv
        bias = self.weights.get((conv, 'bias'))
        if not _is_product(conv, h):
            return conv._conv_forward(h, self.weights[conv, 'weight'], bias)
        z = torch.bmm(self._matrix(conv, channels, len(h)), h.flatten(2))
        z = z.unflatten(2, h.shape[2:])
        return z if bias is None else z.add_(bias[:, None, None])

    def _matrix(self, conv: nn.Conv2d, channels: slice,
                batch_size: int) -> Tensor:
        """The weight of a 1x1 convolution, for each image."""
        weight = self.weights[conv, 'weight'][:, channels]
        return weight.flatten(1).expand(batch_size, -1, -1)

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
        # What autocast has multiplied is of the output's type.
        h_type, h = h.dtype, h.to(dz.dtype)
        weight = self.weights[slot][:, channels].to(dz.dtype)
        if not channels.start and self.needed.get(bias, False):
            self.grads[bias] = dz.sum((0, 2, 3)).to(self.weights[bias].dtype)
        if _is_product(conv, dz, h):
            if self.needed[slot]:
                _add_products(self._grad(slot)[:, channels], dz, h)
            if not needs_dh:
                return None
            matrix = weight.flatten(1).t().expand(len(dz), -1, -1)
            if dh is not None and dh.dtype == dz.dtype:
                dh.flatten(2).baddbmm_(matrix, dz.flatten(2))
                return dh
            part = torch.bmm(matrix, dz.flatten(2)).view_as(h)
        else:
            part, dw, _ = aten.convolution_backward(
                dz, h, weight, None, conv.stride, conv.padding,
                conv.dilation, False, [0, 0], conv.groups,
                [needs_dh, self.needed[slot], False])
            if dw is not None and channels == slice(None):
                self.grads[slot] = dw.to(self.weights[slot].dtype)
            elif dw is not None:
                self._grad(slot)[:, channels] = dw
            if not needs_dh:
                return None
        part = part.to(h_type)
        return part if dh is None else dh.add_(part)

    def _grad(self, slot: Slot) -> Tensor:
        """What has been found of a weight; zeros at first."""
        if slot not in self.grads:
            weight = self.weights[slot]
            self.grads[slot] = torch.zeros_like(weight)
        return self.grads[slot]

    def _gate(self, h: Tensor, dy: Tensor, owned: bool) -> Tensor:
        """Go back through eSE: y = h * hardsigmoid(fc(mean of h))."""
        # By image, since the product is as large as what is multiplied.
        dgate = torch.stack([(a * b).sum((1, 2)) for a, b in zip(dy, h)])
        dgate = dgate[..., None, None].to(self.squeezed.dtype)
        dpooled = self._convolution(
            self.segment.gate, aten.hardsigmoid_backward(dgate, self.squeezed),
            self.pooled, True)
        gate = F.hardsigmoid(self.squeezed)
        dh = dy.mul_(gate) if owned else dy * gate
        return dh.add_(dpooled / (h.shape[2] * h.shape[3]))

    def _unpool(self, z: Tensor, dpool: Tensor) -> Tensor:
        """Go back through the pool, whose input is made of ``z``."""
        pool = self.segment.pool
        if self.indices is None:
            y = self._activated(self.segment.layers[-1], z).h
            if self.segment.gate is not None:
                y = y.mul_(F.hardsigmoid(self.squeezed))
            if self.segment.residual:
                y = y + self.x
            _, indices = _pool(pool, y)
            del y
        else:
            indices = self.indices.long()
        # Of the pool's input only shape and type are needed: the shape of z,
        # but not its type where autocast makes a norm layer give a wider one.
        return aten.max_pool2d_with_indices_backward(
            dpool, z.to(dpool.dtype), _pair(pool.kernel_size),
            _pair(pool.stride), _pair(pool.padding), _pair(pool.dilation),
            pool.ceil_mode, indices)

    def _activated(self, layer: Layer, z: Tensor) -> '_Activated':
        kind, (_, mean, _, counts) = _Activated, self.memos[layer]
        if mean is not None and type(layer.act) is nn.ReLU:
            kind = _BatchNormReLU if counts is None else _SyncBatchNormReLU
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
        counts (Tensor, optional): How many pixels each process had a channel,
            where the batch was that of all of them.
    """

    def __init__(self, layer: Layer, z: Tensor, weights: dict[Slot, Tensor],
                 needed: dict[Slot, bool], batch: bool, mean: Tensor,
                 spread: Tensor, counts: Tensor | None) -> None:
        self.norm, self.z, self.needed = layer.norm, z, needed
        self.batch, self.mean, self.spread = batch, mean, spread
        self.counts = counts
        self.weight = weights.get((layer.norm, 'weight'))
        self.h = self._normalise(weights.get((layer.norm, 'bias'))).relu_()

    def _normalise(self, bias: Tensor | None) -> Tensor:
        mean, spread = self.mean, self.spread
        if not self.batch:
            # A CUDA kernel of the backward pass insists on what this saves.
            self.running = mean, spread
            h, *self.saved = torch.native_batch_norm(
                self.z, self.weight, bias, mean, spread, False, 0.,
                self.norm.eps)
            return h
        # What BN's kernels do is h = gain * z + shift. The operator for
        # running statistics does just this if they are 0 and 1.
        self.running, self.saved = (None, None), (mean, spread)
        ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
        gain = spread if self.weight is None else self.weight * spread
        shift = torch.addcmul(
            zeros if bias is None else bias, mean, gain, value=-1)
        h, *_ = torch.native_batch_norm(
            self.z, gain, shift, zeros, ones, False, 0., 0.)
        return h

    def backward(self, dh: Tensor, owned: bool
                 ) -> tuple[Tensor, dict[Slot, Tensor]]:
        """See above."""
        dh = aten.threshold_backward.grad_input(
            dh, self.h, 0, grad_input=dh if owned else torch.empty_like(dh))
        self.h = None
        slots = [(self.norm, 'weight'), (self.norm, 'bias')]
        needs = [self.needed.get(slot, False) for slot in slots]
        dz, *found = self._go_back(dh, [True, *needs])
        return dz, {slot: grad for slot, grad, need
                    in zip(slots, found, needs) if need}

    def _go_back(self, dh: Tensor, needs: list[bool]
                 ) -> tuple[Tensor | None, ...]:
        return aten.native_batch_norm_backward(
            dh, self.z, self.weight, *self.running, *self.saved, self.batch,
            self.norm.eps, needs)


class _SyncBatchNormReLU(_BatchNormReLU):
    """The same where the batch was that of all processes.

    They have told each other their statistics in the forward pass. All that
    is left to exchange is the sums that the gradients need.
    """

    def _normalise(self, bias: Tensor | None) -> Tensor:
        return torch.batch_norm_elemt(
            self.z, self.weight, bias, self.mean, self.spread, self.norm.eps)

    def _go_back(self, dh: Tensor, needs: list[bool]
                 ) -> tuple[Tensor | None, ...]:
        # Stands in for the context of the module's own forward pass.
        ctx = SimpleNamespace(
            saved_tensors=(self.z, self.weight, self.mean, self.spread,
                           self.counts),
            process_group=self.norm.process_group or dist.group.WORLD,
            needs_input_grad=needs)
        return sync_batch_norm.backward(ctx, dh)[:3]


def _normalise(norm: nn.Module | None, z: Tensor
               ) -> tuple[Tensor, bool, Tensor | None, Tensor | None,
                          Tensor | None]:
    """Apply a norm layer, and note what recomputes it.

    Returns:
        tuple: The result, and the arguments ``batch``, ``mean``, ``spread``
        and ``counts`` of :class:`_BatchNormReLU`.
    """
    if norm is None:
        return z, False, None, None, None
    if type(norm).forward not in BATCH_NORMS:
        return norm(z), norm.training, None, None, None
    if not norm.training and norm.running_mean is not None:
        return norm(z), False, norm.running_mean, norm.running_var, None
    # Autograd notes the statistics; hooks shall not see what else it saves.
    detach = Tensor.detach
    with torch.enable_grad(), saved_tensors_hooks(detach, detach):
        h = norm(z.detach().requires_grad_())
    node, counts = h.grad_fn, None
    if isinstance(node, sync_batch_norm._backward_cls):
        *_, mean, spread, counts = node.saved_tensors
    else:
        mean, spread = node._saved_result1, node._saved_result2
    return h.detach(), True, mean, spread, counts


def _is_product(conv: nn.Conv2d, *maps: Tensor) -> bool:
    """Whether a convolution is a plain matrix product, on a CPU.

    There oneDNN reorders the maps before and after it convolves them, which
    takes longer than the product and as much memory as they do.
    """
    return (conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
            and conv.padding == (0, 0) and maps[0].device.type == 'cpu'
            and all(m.is_contiguous() and m.shape[-1] > 1 for m in maps))


def _add_products(dw: Tensor, dz: Tensor, h: Tensor) -> None:
    """Add to the gradient of a 1x1 convolution's weight, in its precision."""
    dw = dw.flatten(1)
    for gradient, image in zip(dz.flatten(2), h.flatten(2)):
        if dw.dtype == dz.dtype:
            dw.addmm_(gradient, image.t())
        else:
            dw += gradient @ image.t()


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
