"""Training memory: keep the convolutions' outputs, recompute what is cheap.

One-Shot Aggregation stores every map three times: before BN, after ReLU and
in the concatenation. The first is enough: norms and activations run again in
the backward pass, one layer at a time, and the concatenation is not needed
there, since the 1x1 convolution behind it is a sum over its sources.

Names: ``z`` is the output of a layer's convolution, ``h`` that of its norm
and activation; ``dz`` and ``dh`` are their gradients.
"""
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from torch.utils.checkpoint import checkpoint

# Functions of nothing but their input and their weight.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU,
               nn.SiLU, nn.Mish, nn.Hardswish)
# Norm layers that can be repeated from their statistics.
BATCH_NORMS = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
HOOKS = ('forward_pre_hooks', 'forward_hooks', 'backward_pre_hooks',
         'backward_hooks')

aten = torch.ops.aten


class Layer(NamedTuple):
    """A convolution with its norm and activation, where it has them."""
    conv: nn.Conv2d | None
    norm: nn.Module | None = None
    act: nn.Module | None = None


class Statistics(NamedTuple):
    """What a batch norm layer normalized the channels with."""
    mean: Tensor
    spread: Tensor  # 1 / sqrt(variance + eps), or the running variance
    counts: Tensor | None  # pixels of each process that shares the batch
    is_batch: bool  # or else running statistics


class RecomputeBlock:
    """Layers that are recomputed together: a chain, or an OSA block.

    Args:
        module: Computes the output.
        parts: The chain: ConvModules, DepthwiseSeparableConvModules or
            sequences of them, each with whether ``aggregation`` reads its
            output. Without parts it is not known what the module does.
        aggregation: The 1x1 convolution of the concatenated input and outputs.
        gate: The 1x1 convolution of eSE.
        residual: Whether the input is added to the output.
        pool: The max-pool behind the module.

    Attributes:
        layers: In the order of computation.
        channels: Where the input of the i-th layer is in the concatenation.
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
        self.channels: dict[int, slice] = {}
        sources = [0]
        for part, is_source in parts:
            self.layers += _find_layers(part)
            if is_source:
                sources.append(len(self.layers))
        if aggregation is not None:
            start = 0
            for i in sources:
                width = (self.layers[i - 1].conv.out_channels if i else
                         self.layers[0].conv.in_channels)
                self.channels[i] = slice(start, start + width)
                start += width
            self.layers += _find_layers(aggregation)

    def __call__(self, x: Tensor, state: dict[str, Tensor] | None = None,
                 module: nn.Module | None = None) -> tuple[Tensor, ...]:
        """Run the module and the pool; ``state`` replaces its tensors."""
        module = module or self.module
        y = functional_call(module, state, (x, )) if state else module(x)
        return (y, ) if self.pool is None else (y, self.pool(y))

    def slots(self) -> list[tuple[nn.Module | None, str]]:
        """List the owner and name of six tensors a layer, the gate's last."""
        return [(module, name) for layer in (*self.layers, Layer(self.gate))
                for module in layer for name in ('weight', 'bias')]

    def is_faithful(self) -> bool:
        """Tell whether the layers are all that runs, and can be repeated."""
        if any(getattr(nn_module, f'_global_{kind}') for kind in HOOKS):
            return False
        pools = [] if self.pool is None else [self.pool]
        known = {m for layer in self.layers for m in layer}
        known |= {self.gate, *pools}
        for m in (*self.module.modules(), *pools):
            is_leaf = not m._modules and not isinstance(m, nn.Identity)
            if is_hooked(m) or is_leaf and m not in known:
                return False
            if isinstance(m, ConvModule) and (
                    m.order != ('conv', 'norm', 'act')
                    or m.with_explicit_padding
                    or m.efficient_conv_bn_eval_forward):
                return False
        return bool(self.layers) and all(
            type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'
            and (isinstance(norm, (nn.GroupNorm, type(None)))
                 or type(norm).forward in BATCH_NORMS)
            and isinstance(act, (*ACTIVATIONS, type(None)))
            for conv, norm, act in self.layers
        ) and all(type(pool) is nn.MaxPool2d and not pool.return_indices
                  for pool in pools)


def is_hooked(module: nn.Module) -> bool:
    """Tell whether a call of a module does more than its class says."""
    return 'forward' in vars(module) or any(
        getattr(module, f'_{kind}') for kind in HOOKS)


@torch.compiler.disable
def recompute(block: RecomputeBlock, x: Tensor, keep_convolutions: bool
              ) -> tuple[Tensor, ...]:
    """Run a block so that little is kept for its backward pass.

    A module with hooks or with layers of other kinds runs as it is if
    ``keep_convolutions``, else by ``torch.utils.checkpoint``. What is traced
    or transformed by ``torch.func`` runs as it is.

    Args:
        block: The layers and their module.
        x: The input (N, C, H, W).
        keep_convolutions: Keep the input and the outputs of convolutions, so
            that none of them runs again; otherwise the input alone.

    Returns:
        The output and, with a pool, its output. Gradients are equal to the
        module's up to rounding, its buffers exactly.
    """
    parameters = [getattr(module, name, None)
                  for module, name in block.slots()]
    if _is_differentiated(x, *(p for p in parameters if p is not None)):
        if block.is_faithful():
            return _Recompute.apply(block, keep_convolutions, x, *parameters)
        if not keep_convolutions:
            return _checkpoint(block, x)
    return block(x)


def _is_differentiated(*tensors: Tensor) -> bool:
    """Tell whether there are gradients to find, in reverse mode only."""
    return (all(isinstance(t, Tensor) for t in tensors)  # torch.fx has proxies
            and all(t.numel() for t in tensors)  # autograd skips empty ones
            and any(t.requires_grad for t in tensors)
            and not torch.jit.is_tracing()
            and not torch._C._are_functorch_transforms_active()
            and all(unpack_dual(t).tangent is None for t in tensors))


def _checkpoint(block: RecomputeBlock, x: Tensor) -> tuple[Tensor, ...]:
    """Run a block by torch's checkpoint, moving its buffers only once."""
    runs = itertools.count()

    def run(x: Tensor) -> tuple[Tensor, ...]:
        buffers = block.module.named_buffers() if next(runs) else ()
        return block(x, {name: b.clone() for name, b in buffers})

    return checkpoint(run, x, use_reentrant=False)


class _Recompute(torch.autograd.Function):
    """A block as one function of its input, its weights and its biases."""

    @staticmethod
    def forward(ctx: FunctionCtx, block: RecomputeBlock,
                keep_convolutions: bool, x: Tensor,
                *parameters: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device),
                        torch.is_autocast_enabled(device))
        ctx.block, ctx.statistics = block, []
        ctx.modes = [module.training for module in block.module.modules()]

        def activate(i: int, z: Tensor) -> Tensor:
            _, norm, act = block.layers[i]
            h, statistics = _normalize(norm, z)
            ctx.statistics.append(statistics)
            # Activations may work in place, and z is kept.
            return h if act is None else act(h.clone() if h is z else h)

        zs = _convolve(block, x, parameters, activate)
        y = activate(len(zs) - 1, zs[-1])
        pooled = squeezed = indices = None
        if block.gate is not None:
            pooled = F.adaptive_avg_pool2d(y, 1)
            squeezed = block.gate(pooled)
            y = y * F.hardsigmoid(squeezed)
        if block.residual:
            y = y + x
        outs = [y]
        if block.pool is not None:
            out, indices = F.max_pool2d(
                y, *_pool_options(block.pool), return_indices=True)
            outs.append(out)
            indices = indices.int()  # int64 is more than any map needs
        ctx.save_for_backward(x, pooled, squeezed, indices, *parameters,
                              *(zs if keep_convolutions else ()))
        return tuple(outs)

    @staticmethod
    def backward(ctx: FunctionCtx, *dys: Tensor | None) -> tuple:
        with torch.autocast(*ctx.autocast):
            if torch.is_grad_enabled():  # with create_graph
                return None, None, *_differentiate(ctx, dys)
            return None, None, *_find_all_gradients(ctx, *dys)


def _find_all_gradients(ctx: FunctionCtx, dy: Tensor | None,
                        dpool: Tensor | None = None) -> list[Tensor | None]:
    """Go back through a block, letting maps go as soon as possible.

    Args:
        ctx: The context of :class:`_Recompute`.
        dy: Gradient of the output.
        dpool: Gradient of the pool's output.

    Returns:
        Gradients of the input, and of what the block's slots list.
    """
    block = ctx.block
    x, pooled, squeezed, indices, *rest = ctx.saved_tensors
    needs_dx, *needed = ctx.needs_input_grad[2:]
    parameters, zs = rest[:len(needed)], rest[len(needed):]
    del rest
    *layers, gate = [
        _LayerBackward(layer, parameters[6 * i:6 * i + 6],
                       needed[6 * i:6 * i + 6], statistics)
        for i, (layer, statistics) in enumerate(zip(
            (*block.layers, Layer(block.gate)), (*ctx.statistics, None)))]
    *_, last = layers
    if not zs:  # copies of the layers let their maps go
        zs = _convolve(block, x, parameters,
                       lambda i, z: copy.copy(layers[i]).activate(z))

    dh = dy
    if dpool is not None:
        # The shape and type of z are those of the pool's input; autocast may
        # have made a norm layer give a wider type.
        dh = aten.max_pool2d_with_indices_backward(
            dpool, zs[-1].to(dpool.dtype), *_pool_options(block.pool),
            indices.long())
        dy = dh if dy is None else dh.add_(dy)
    # A residual of a wider type has widened the output.
    h = last.activate(zs.pop())
    dh = dh.to(h.dtype)
    # dy is the caller's, or is needed again.
    owned = dpool is not None and not block.residual
    if block.gate is not None:
        dh, owned = _backward_ese(gate, h, dh, pooled, squeezed, owned), True
    h = None
    dz = dz_joined = last.backward_activation(dh, owned)
    dh = None
    if not block.residual:
        dy = None
    for i in reversed(range(len(layers))):
        h = layers[i - 1].activate(zs.pop()) if i else x
        needs_dh = needs_dx or i > 0
        dh = None
        if layers[i] is not last or not block.channels:
            dh = layers[i].backward_convolution(dz, h, needs_dh)
        if i in block.channels:
            dh = last.backward_source(block.channels[i], dz_joined, h,
                                      needs_dh, dh)
        h = dz = None
        if i:
            dz = layers[i - 1].backward_activation(dh, True)
    if block.residual and needs_dx:
        dh.add_(dy)
    grads = [grad for layer in (*layers, gate) for grad in layer.grads]
    return [dh, *(grad if grad is None else grad.to(parameter.dtype)
                  for grad, parameter in zip(grads, parameters))]


def _backward_ese(gate: '_LayerBackward', h: Tensor, dy: Tensor,
                  pooled: Tensor, squeezed: Tensor, owned: bool) -> Tensor:
    """Go back through y = h * hardsigmoid(fc(mean of h))."""
    # By image, since the product is as large as what is multiplied.
    dgate = torch.stack([(a * b).sum((1, 2)) for a, b in zip(dy, h)])
    dgate = dgate[..., None, None].to(squeezed.dtype)
    dpooled = gate.backward_convolution(
        aten.hardsigmoid_backward(dgate, squeezed), pooled, True)
    scale = F.hardsigmoid(squeezed)
    dh = dy.mul_(scale) if owned else dy * scale
    return dh.add_(dpooled / (h.shape[2] * h.shape[3]))


class _LayerBackward:
    """The backward pass of a layer.

    Args:
        layer: The layer.
        weights: Weight and bias of the convolution, norm and activation.
        needed: Which of them need gradients.
        statistics: What the norm layer used, if it is a batch norm.

    Attributes:
        grads: Gradients of the weights, as far as they are known.
    """

    def __init__(self, layer: Layer, weights: Sequence[Tensor | None],
                 needed: Sequence[bool], statistics: Statistics | None
                 ) -> None:
        self.conv, self.norm, self.act = layer
        self.weights, self.needed = weights, needed
        self.statistics = statistics
        self.is_relu = type(self.act) is nn.ReLU
        self.grads: list[Tensor | None] = [None] * len(weights)

    def activate(self, z: Tensor) -> Tensor:
        """Repeat norm and activation."""
        # Aliases: hooks on the parameters are autograd's to call, once.
        z = z.detach().requires_grad_()
        weights = [w if w is None else w.detach().requires_grad_(needs)
                   for w, needs in zip(self.weights[2:], self.needed[2:])]
        self.inputs = [z, *weights]
        norm_weights, act_weights = weights[:2], weights[2:]
        with torch.enable_grad():
            if self.norm is None:  # activations may work in place
                h = z.view_as(z) if self.act is None else z.clone()
            elif self.statistics is None:
                h = _call(self.norm, norm_weights, z)
            elif self.statistics.is_batch:
                h = _BatchNorm.apply(z, *norm_weights, self.norm,
                                     self.statistics)
            else:
                h = F.batch_norm(z, *self.statistics[:2], *norm_weights,
                                 False, 0., self.norm.eps)
            if self.act is not None and not self.is_relu:
                h = _call(self.act, act_weights, h)
        self.edge, self.h = get_gradient_edge(h), h.detach()
        return self.h.relu_() if self.is_relu else self.h

    def backward_activation(self, dh: Tensor, owned: bool) -> Tensor:
        """Go back to ``z``; ``dh`` may be overwritten if it is ``owned``."""
        if self.is_relu:
            dh = aten.threshold_backward.grad_input(
                dh, self.h, 0,
                grad_input=dh if owned else torch.empty_like(dh))
        self.h = None
        dz, *self.grads[2:] = _find_gradients(
            [self.edge], self.inputs, [True, *self.needed[2:]], [dh])
        self.edge = self.inputs = None
        return dz

    def backward_convolution(self, dz: Tensor, h: Tensor, needs_dh: bool
                             ) -> Tensor | None:
        """Go back to ``h``, the input of the convolution."""
        conv, (weight, bias) = self.conv, self.weights[:2]
        # What autocast has multiplied is of the output's type.
        dh, *self.grads[:2] = aten.convolution_backward(
            dz, h.to(dz.dtype), weight.to(dz.dtype),
            None if bias is None else bias.shape, conv.stride, conv.padding,
            conv.dilation, False, [0, 0], conv.groups,
            [needs_dh, *self.needed[:2]])
        return None if dh is None else dh.to(h.dtype)

    def backward_source(self, channels: slice, dz: Tensor, h: Tensor,
                        needs_dh: bool, dh: Tensor | None) -> Tensor | None:
        """Go back to ``h``, these channels of an aggregation's input.

        ``dh`` is what is known of the gradient, and is overwritten.
        """
        if self.needed[0] and self.grads[0] is None:
            self.grads[0] = torch.zeros_like(self.weights[0])
        if self.needed[1] and self.grads[1] is None:
            self.grads[1] = dz.sum((0, 2, 3))
        weight = self.weights[0][:, channels]
        dw = self.grads[0][:, channels] if self.needed[0] else None
        if dz.device.type == 'cpu' and dz.dtype == h.dtype == weight.dtype:
            # A matrix product. oneDNN would reorder the maps before and after
            # it, which takes longer and as much memory as they do.
            if dw is not None:
                dw.flatten(1).addbmm_(dz.flatten(2), h.flatten(2).mT)
            if needs_dh:
                matrix = weight.flatten(1).mT.expand(len(dz), -1, -1)
                beta = 0 if dh is None else 1
                dh = torch.empty_like(h) if dh is None else dh
                dh.flatten(2).baddbmm_(matrix, dz.flatten(2), beta=beta)
            return dh
        part, dw_part, _ = aten.convolution_backward(
            dz, h.to(dz.dtype), weight.to(dz.dtype), None, [1, 1], [0, 0],
            [1, 1], False, [0, 0], 1, [needs_dh, dw is not None, False])
        if dw is not None:
            dw.copy_(dw_part)
        if dh is not None:
            return dh.add_(part)
        return None if part is None else part.to(h.dtype)


def _differentiate(ctx: FunctionCtx, dys: Sequence[Tensor | None]
                   ) -> list[Tensor | None]:
    """Find the gradients as functions of all that they depend on."""
    block, needed = ctx.block, ctx.needs_input_grad[2:]
    x, *rest = ctx.saved_tensors
    parameters = rest[3:2 + len(needed)]
    # A copy, since buffers have moved already and modes may have changed.
    twin = copy.deepcopy(block.module)
    for module, mode in zip(twin.modules(), ctx.modes):
        module.training = mode
    names = {module: name for name, module in block.module.named_modules()}
    state = {f'{names[module]}.{name}': parameter for (module, name), parameter
             in zip(block.slots(), parameters) if parameter is not None}
    ys, dys = zip(*((y, dy) for y, dy in zip(block(x, state, twin), dys)
                    if dy is not None))
    return _find_gradients(ys, (x, *parameters), needed, dys,
                           create_graph=True)


class _BatchNorm(torch.autograd.Function):
    """Batch normalization by a batch's statistics, which are known."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, weight: Tensor | None,
                bias: Tensor | None, norm: nn.Module, statistics: Statistics
                ) -> Tensor:
        mean, spread, counts, _ = statistics
        # In the order of torch's function for SyncBN.
        ctx.save_for_backward(z, weight, mean, spread, counts)
        ctx.norm = norm
        # What BN's kernels do is h = gain * z + shift. The operator for
        # running statistics does just this if they are 0 and 1.
        ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
        gain = spread if weight is None else weight * spread
        shift = torch.addcmul(
            zeros if bias is None else bias, mean, gain, value=-1)
        return torch.native_batch_norm(
            z, gain, shift, zeros, ones, False, 0., 0.)[0]

    @staticmethod
    def backward(ctx: FunctionCtx, dh: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, mean, spread, counts = ctx.saved_tensors
        if counts is None:
            grads = aten.native_batch_norm_backward(
                dh, z, weight, None, None, mean, spread, True, ctx.norm.eps,
                ctx.needs_input_grad[:3])
        else:  # the processes have to exchange the sums of their gradients
            ctx.process_group = ctx.norm.process_group or dist.group.WORLD
            grads = sync_batch_norm.backward(ctx, dh)[:3]
        return *grads, None, None


def _normalize(norm: nn.Module | None, z: Tensor
               ) -> tuple[Tensor, Statistics | None]:
    """Run a norm layer, and note its statistics if it is a batch norm."""
    if norm is None:
        return z, None
    if type(norm).forward not in BATCH_NORMS:
        return norm(z), None
    if not norm.training and norm.running_mean is not None:
        return norm(z), Statistics(norm.running_mean.clone(),
                                   norm.running_var.clone(), None, False)
    # Autograd notes the statistics; hooks shall not see what else it saves.
    detach = Tensor.detach
    with torch.enable_grad(), saved_tensors_hooks(detach, detach):
        h = norm(z.detach().requires_grad_())
    node, counts = h.grad_fn, None
    if isinstance(node, sync_batch_norm._backward_cls):
        *_, mean, spread, counts = node.saved_tensors
    else:
        mean, spread = node._saved_result1, node._saved_result2
    return h.detach(), Statistics(mean, spread, counts, True)


def _convolve(block: RecomputeBlock, x: Tensor,
              parameters: Sequence[Tensor | None],
              activate: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    """Compute ``z`` of all layers; ``activate`` gives ``h`` of the i-th."""
    zs, h, joined, last = [], x, None, len(block.layers) - 1
    if block.channels:  # room for the other sources
        width = block.layers[last].conv.in_channels - x.shape[1]
        joined = F.pad(x, (0, 0, 0, 0, 0, width))
    for i, layer in enumerate(block.layers):
        if i:
            h = activate(i - 1, zs[-1])
            # At once, so that no source is kept until all are there.
            if i in block.channels:
                joined[:, block.channels[i]] = h
        if block.channels and i == last:
            h, joined = joined, None
        weight, bias = parameters[6 * i:6 * i + 2]
        zs.append(layer.conv._conv_forward(h, weight, bias))
        h = None
    return zs


def _find_layers(module: nn.Module) -> Iterator[Layer]:
    if isinstance(module, ConvModule):
        yield Layer(module.conv, module.norm,
                    module.activate if module.with_activation else None)
    else:  # a sequence, or a depthwise and a pointwise convolution
        for child in module.children():
            yield from _find_layers(child)


def _find_gradients(outputs: Sequence, inputs: Sequence[Tensor | None],
                    needed: Sequence[bool], gradients: Sequence[Tensor],
                    **options) -> list[Tensor | None]:
    """Call torch.autograd.grad; None for inputs that need no gradient."""
    found = iter(torch.autograd.grad(
        outputs, [t for t, needs in zip(inputs, needed) if needs], gradients,
        **options))
    return [next(found) if needs else None for needs in needed]


def _call(module: nn.Module, weights: Sequence[Tensor | None], x: Tensor
          ) -> Tensor:
    """Run a module with another weight and bias."""
    named = zip(('weight', 'bias'), weights)
    return functional_call(
        module, {name: w for name, w in named if w is not None}, (x, ))


def _pool_options(pool: nn.MaxPool2d) -> tuple:
    return (pool.kernel_size, pool.stride, pool.padding, pool.dilation,
            pool.ceil_mode)
