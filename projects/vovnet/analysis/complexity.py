"""Parameters, multiply-adds and memory accesses of a network.

The network runs once, and every convolution and matrix product that reaches
torch's dispatcher is counted, whether a module or a function called it. Memory
access cost: Lee et al., arXiv:1904.09730, Eq. 1, after guideline 1 of
"ShuffleNet V2", arXiv:1807.11164. These are models of the traffic, not a
hardware counter's reading.
"""
import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision  # noqa: F401  # defines torch.ops.torchvision
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..engine.build import build_network, get_input_shape
from ..utils.dummy_forward import get_max_proposals, run_network
from ..utils.errors import UserError

CONVENTION = (
    'Multiply-adds (MACs) of convolutions and matrix products; FLOPs are '
    'twice as many. Memory access cost: hw(ci + co) + k²·ci·co elements '
    '(VoVNet paper, Eq. 1; h and w of the output, groups not regarded). '
    'Elements: those that these layers read and write (input, output, '
    'weight, bias). Concatenation: bytes that torch.cat writes. Norms, '
    'activations, pooling, interpolation and additions are not counted.')

aten = torch.ops.aten


class Cost(NamedTuple):
    """Costs of a part of a network or of all of it.

    Attributes:
        params: Parameters; one that several layers share counts once.
        macs: Multiply-adds.
        memory_access_cost: The paper's Eq. 1, elements.
        elements: Elements read and written by convolutions and products.
        cat_bytes: Bytes written by ``torch.cat`` (as many are read).
    """
    params: int = 0
    macs: int = 0
    memory_access_cost: int = 0
    elements: int = 0
    cat_bytes: int = 0

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(*map(sum, zip(self, other)))


class Layer(NamedTuple):
    """A call of a convolution, a matrix product or a concatenation.

    Attributes:
        name: Dotted name of the innermost module that made the call, '' for
            the network itself.
        kind: Such as ``'conv 3x3 s2'``: stride, dilation (d) and groups (g)
            are named where they are not 1.
        input: Shape of the first operand.
        output: Shape of the result.
        cost: ``params`` are those of the named module without its
            children's, in its first row.
    """
    name: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    cost: Cost

    @property
    def part(self) -> str:
        """First part of the name, as 'backbone'."""
        return self.name.partition('.')[0]


@dataclass(frozen=True)
class Complexity:
    """Costs of a network, layer by layer.

    Attributes:
        input: Shape of the network's input.
        layers: In the order of their calls.
        parts: Costs of each child of the network, as 'backbone'; '' is the
            network itself.
        uncounted: What ran and may multiply but is in no layer: operators
            that are not torch's own, and modules with a weight of two or
            more dimensions.
        notes: What else a reader of the figures has to know.
    """
    input: tuple[int, ...]
    layers: list[Layer]
    parts: dict[str, Cost]
    uncounted: list[str]
    notes: Sequence[str] = ()

    @property
    def total(self) -> Cost:
        """Costs of the whole network."""
        return sum(self.parts.values(), Cost())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, with the convention, for JSON."""
        return dict(
            convention=CONVENTION,
            input=self.input,
            total=dict(self.total._asdict(), flops=2 * self.total.macs),
            parts={name: cost._asdict() for name, cost in self.parts.items()},
            layers=[dict(layer._asdict(), cost=layer.cost._asdict())
                    for layer in self.layers],
            uncounted=self.uncounted,
            notes=list(self.notes))


def compute_complexity(
        network: nn.Module, images: Tensor | Sequence[int],
        run: Callable[[nn.Module, Tensor], Any] | None = None) -> Complexity:
    """Run a copy of a network once, in eval mode, and count what it costs.

    Args:
        network: Any network.
        images: Input of the network, on its device, or the input's shape:
            then zeros are the input and, where the network allows it, nothing
            is computed (torch's meta device). A batch counts as a whole.
        run: Called with the network and the input, in place of
            ``network(images)``.
    """
    run = run or (lambda network, images: network(images))
    if isinstance(images, Tensor):
        return _run_counted(copy.deepcopy(network), images, run)
    try:
        return _run_counted(copy.deepcopy(network).to('meta'),
                            torch.zeros(*images, device='meta'), run)
    except Exception:  # code that looks at values or creates CPU tensors
        device = next((p.device for p in network.parameters()), 'cpu')
        return _run_counted(copy.deepcopy(network),
                            torch.zeros(*images, device=device), run)


def _run_counted(network: nn.Module, images: Tensor,
                 run: Callable) -> Complexity:
    network.eval()  # returns None where a backbone's train() does
    counter = _Counter(network)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operator
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            run(network, images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    parts = defaultdict(Cost)
    for name, param in network.named_parameters():
        part, dot, _ = name.partition('.')
        parts[part if dot else ''] += Cost(param.numel())
    for layer in counter.layers:
        parts[layer.part] += layer.cost._replace(params=0)
    return Complexity(tuple(images.shape), counter.layers, dict(parts),
                      counter.list_uncounted())


class _Counter(TorchDispatchMode):
    """Records operators, and the module that each one runs for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._modules = dict(network.named_modules())
        self._running = ['']
        self._ran: set[str] = set()
        self._listed: set[str] = set()
        self._foreign = Counter()
        for name, module in self._modules.items():
            # Not hooks, since mmdet calls the forward of heads directly.
            module.forward = self._wrap(module.forward, name)

    def _wrap(self, forward: Callable, name: str) -> Callable:

        @wraps(forward)
        def call(*args, **kwargs):
            self._ran.add(name)
            self._running.append(name)
            try:
                return forward(*args, **kwargs)
            finally:
                self._running.pop()

        return call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        op = func.overloadpacket
        if op not in _COSTS:
            with self:  # linear, matmul, einsum, ... consist of others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        out = func(*args, **kwargs)
        if op in _COSTS:
            self._add(*_COSTS[op](out, *args), out)
        elif op in flop_registry or func.namespace not in ('aten', 'prim'):
            self._foreign[str(op)] += 1
        return out

    def _add(self, kind: str, first: Tensor, cost: Cost,
             out: Tensor) -> None:
        name = self._running[-1]
        if name not in self._listed:
            self._listed.add(name)
            own = self._modules[name].parameters(recurse=False)
            cost = cost._replace(params=sum(p.numel() for p in own))
        self.layers.append(
            Layer(name, kind, tuple(first.shape), tuple(out.shape), cost))

    def list_uncounted(self) -> list[str]:
        """Name what ran and may multiply but has no layer."""
        counted = {layer.name for layer in self.layers if layer.cost.macs}
        return [f'{name} ({calls}x)' for name, calls in self._foreign.items()
                ] + [
            f'{name} ({type(module).__name__})'
            for name, module in self._modules.items()
            if name in self._ran - counted and any(
                p.dim() > 1 for p in module.parameters(recurse=False))]


def _count_convolution(
        out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
        stride: Sequence[int], padding: Sequence[int],
        dilation: Sequence[int], transposed: bool,
        output_padding: Sequence[int], groups: int
        ) -> tuple[str, Tensor, Cost]:
    # A weight is (co, ci / groups, *k) and makes one output from each slice;
    # a transposed one is (ci, co / groups, *k) and spreads one input.
    spread = x if transposed else out
    kernel = weight.shape[2:]
    pixels = out.numel() // out.shape[1]
    ci, co = x.shape[1], out.shape[1]
    kind = f'conv {"x".join(map(str, kernel))}'
    if transposed:
        kind = f'transposed {kind}'
    for letter, values in ('s', stride), ('d', dilation):
        if set(values) != {1}:
            same = len(set(values)) == 1
            text = values[0] if same else 'x'.join(map(str, values))
            kind += f' {letter}{text}'
    if groups > 1:
        kind += f' g{groups}'
    return kind, x, Cost(
        macs=spread.numel() * weight[0].numel(),
        memory_access_cost=pixels * (ci + co) + prod(kernel) * ci * co,
        elements=_count_elements(x, out, weight, bias))


def _count_deform_conv(
        out: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor,
        bias: Tensor, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
        dilation_h: int, dilation_w: int, groups: int, offset_groups: int,
        use_mask: bool) -> tuple[str, Tensor, Cost]:
    """Count a convolution, without the products of its interpolation."""
    kind, x, cost = _count_convolution(
        out, x, weight, bias, (stride_h, stride_w), (pad_h, pad_w),
        (dilation_h, dilation_w), False, (0, 0), groups)
    read = _count_elements(offset, mask if use_mask else None)
    return f'deformable {kind}', x, cost._replace(
        elements=cost.elements + read)


def _count_product(out: Tensor, a: Tensor, b: Tensor,
                   bias: Tensor | None = None) -> tuple[str, Tensor, Cost]:
    """Count (..., n, ci) by (..., ci, co) as 1x1 convolutions of n pixels."""
    return 'linear' if a.dim() == 2 else 'matmul', a, Cost(
        macs=a.numel() * b.shape[-1],
        memory_access_cost=_count_elements(a, b, out),
        elements=_count_elements(a, b, out, bias))


def _count_cat(out: Tensor, tensors: Sequence[Tensor],
               dim: int = 0) -> tuple[str, Tensor, Cost]:
    return f'cat of {len(tensors)}', tensors[0], Cost(
        cat_bytes=out.numel() * out.element_size())


def _count_elements(*tensors: Tensor | None) -> int:
    return sum(t.numel() for t in tensors if t is not None)


_COSTS = {
    aten.convolution: _count_convolution,
    torch.ops.torchvision.deform_conv2d: _count_deform_conv,
    aten.mm: _count_product,
    aten.bmm: _count_product,
    aten.addmm: lambda out, bias, a, b: _count_product(out, a, b, bias),
    aten.baddbmm: lambda out, bias, a, b: _count_product(out, a, b, bias),
    aten.cat: _count_cat,
}


def compute_config_complexity(cfg: Config,
                              shape: Sequence[int] | None = None,
                              part: str = 'detector') -> Complexity:
    """Count what the network of a config costs for one image.

    Args:
        cfg: Config of a detector or a classifier.
        shape: As :func:`vovnet.engine.build.input_shape` takes it.
        part: 'detector' (the whole model) or 'backbone'.

    Raises:
        UserError: If the config has no backbone, or the network cannot run
            on such an image.
    """
    network = build_network(cfg, part)
    images = get_input_shape(cfg, shape, part)
    proposals = get_max_proposals(network)
    try:
        found = compute_complexity(network, images, run_network)
    except Exception as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise UserError(
            f'config {cfg.filename}: {type(network).__name__} cannot run on '
            f'zeros of shape {"x".join(map(str, images))} ({reason}); try '
            'another --shape, or --part backbone') from error
    if proposals:
        found = replace(found, notes=[
            f'roi_head: {proposals} proposals for the image (test_cfg.rpn.'
            'max_per_img, the most there can be), as mmdet passes them: the '
            'mask head of Mask R-CNN gets the first 100. Where NMS leaves '
            'fewer, what is counted is an upper bound.'])
    return found


def compute_mean_cost(cfg: Config, shapes: Mapping[tuple[int, ...], int],
                      part: str = 'detector'
                      ) -> tuple[Cost | None, list[str]]:
    """Count what the network of a config costs for one image, on average.

    Args:
        cfg: Config of a detector or a classifier.
        shapes: How many batches there are of each (N, C, H, W).
        part: 'detector' (the whole model) or 'backbone'.

    Returns:
        The mean over the batches, or None if the network cannot be counted,
        and notes for the reader.
    """
    costs, notes = [], []
    for _, _, *size in shapes:
        try:
            found = compute_config_complexity(cfg, size, part)
        except UserError as error:
            return None, [f'not counted: {error}']
        costs.append(found.total)
        notes = notes or list(found.notes)
    mean = np.average(costs, axis=0, weights=list(shapes.values()))
    return Cost(*mean.tolist())._replace(params=costs[0].params), notes
