"""Training on CUDA devices that are not there, and beside peers that are not.

Torch's fake tensors have a shape, a type and a device, but no elements. This
is what is missing to train a network of them: an autograd engine, and the
kernels of SyncBN, which exist for CUDA only. These work on a CPU as well.
"""
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules import batchnorm
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from vovnet.models.recompute import _Recompute

aten = torch.ops.aten


@contextmanager
def fake_cuda(monkeypatch):
    """Let tensors be fake, and autocast believe in any device of theirs."""
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available',
                        lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *args: True)
    monkeypatch.setattr(torch.autograd, 'grad', grad)
    with FakeTensorMode(), Kernels():
        yield


def grad(outputs, inputs, grad_outputs):
    """As torch.autograd.grad to leaves, whose engine insists on the device.

    What :mod:`vovnet.models.recompute` gives must be of the right type; other
    functions leave that to the engine.
    """
    sums = defaultdict(dict)  # of gradients, by node and its output

    def send(edges, gradients, are_exact=False):
        for (node, number, *_), gradient in zip(edges, gradients):
            if node is None or gradient is None:
                continue
            want, found = node._input_metadata[number], sums[node]
            assert gradient.device == want.device
            assert not are_exact or gradient.shape == torch.Size(want.shape)
            assert not are_exact or gradient.dtype == want.dtype
            gradient = gradient.sum_to_size(want.shape).to(want.dtype)
            found[number] = (found[number] + gradient if number in found
                             else gradient)

    send([output if isinstance(output, GradientEdge) else
          get_gradient_edge(output) for output in outputs], grad_outputs)
    # A node is younger than those that it has its inputs from, leaves aside.
    while nodes := [node for node in sums if not hasattr(node, 'variable')]:
        node = max(nodes, key=lambda node: node._sequence_nr())
        found = sums.pop(node)
        with torch.no_grad():
            gradients = getattr(node, 'apply', node)(
                *map(found.get, range(len(node._input_metadata))))
        if isinstance(gradients, torch.Tensor):
            gradients = (gradients, )
        is_ours = isinstance(node, _Recompute._backward_cls)
        if is_ours:  # there are edges for tensors only
            dx, *others = gradients[2:]
            gradients = [dx, *(
                gradient for gradient, (module, name) in zip(
                    others, node.block.slots(), strict=True)
                if getattr(module, name, None) is not None)]
        send(node.next_functions, gradients, is_ours)
    leaves = {id(node.variable): found[0] for node, found in sums.items()}
    return [leaves.get(id(leaf)) for leaf in inputs]


class Kernels(TorchDispatchMode):
    """SyncBN's kernels, and what others demand that fake ones forget."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix('aten::')
        if name in SYNC_BATCH_NORM:
            return SYNC_BATCH_NORM[name](*args)
        if name == 'index' and args[1][0].dtype == torch.bool:
            return args[0]  # of SyncBN, to find processes without images
        if name == 'native_batch_norm_backward':
            self.check_batch_norm(*args)
        if name in ('convolution_backward', 'threshold_backward'):
            assert args[0].dtype == args[1].dtype
        return function(*args, **kwargs or {})

    @staticmethod
    def check_batch_norm(dy, x, weight, mean, var, saved_mean, saved_spread,
                         *_):
        """CUDA's kernel has an assertion on the saved ones."""
        assert dy.dtype == x.dtype
        precise = torch.promote_types(x.dtype, torch.float)
        for saved in (saved_mean, saved_spread):
            assert saved is not None and saved.dtype == precise


def _stats(x, eps):
    var, mean = torch.var_mean(
        x.to(torch.promote_types(x.dtype, torch.float)), MAP, correction=0)
    return mean, (var + eps).rsqrt()


def _gather_stats(x, means, spreads, running_mean, running_var, momentum, eps,
                  counts):
    count = counts.sum()
    share = (counts / count)[:, None]
    mean = (share * means).sum(0)
    var = (share * (spreads ** -2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * count / (count - 1), momentum)
    return mean, (var + eps).rsqrt()


def _elemt(x, weight, bias, mean, spread, eps):
    mean, spread, weight, bias = map(_by_channel, (mean, spread, weight, bias))
    return ((x - mean) * spread * weight + bias).to(x.dtype)


def _backward_reduce(dy, x, mean, spread, weight, *needs):
    assert dy.dtype == x.dtype
    total = dy.sum(MAP, dtype=mean.dtype)
    moment = (dy * (x - _by_channel(mean))).sum(MAP)
    return (total, moment, (moment * spread).to(weight.dtype),
            total.to(weight.dtype))


def _backward_elemt(dy, x, mean, spread, weight, total, moment, counts):
    assert dy.dtype == x.dtype and counts.dtype == torch.int32
    count = counts.sum()
    mean, gain, total, moment = map(_by_channel, (
        mean, weight * spread, total / count, moment / count * spread ** 2))
    return ((dy - total - (x - mean) * moment) * gain).to(x.dtype)


def _by_channel(t):
    return t[:, None, None]


MAP = (0, 2, 3)
SYNC_BATCH_NORM = dict(
    batch_norm_stats=_stats,
    batch_norm_gather_stats_with_counts=_gather_stats,
    batch_norm_elemt=_elemt,
    batch_norm_backward_reduce=_backward_reduce,
    batch_norm_backward_elemt=_backward_elemt)


@contextmanager
def peer(monkeypatch):
    """Be one of two processes.

    Yields:
        Counter: How often they exchange something. The other's statistics
        and sums are other than one's own, but always in the same way.
    """
    calls = Counter()

    def all_gather(gathered, own, group, async_op):
        calls['all_gather'] += 1
        gathered.view(2, -1)[0].copy_(own)
        gathered.view(2, -1)[1].copy_(own * 1.25)

    def all_reduce(sums, op, group, async_op):
        calls['all_reduce'] += 1
        sums.mul_(1.75)

    # torch 2.15 has another name for it.
    name = ('all_gather_single' if hasattr(dist, 'all_gather_single')
            else 'all_gather_into_tensor')
    monkeypatch.setattr(dist, name, all_gather)
    monkeypatch.setattr(dist, 'all_reduce', all_reduce)
    # SyncBN takes what is on a GPU or on a device of somebody else's.
    name = torch._C._get_privateuse1_backend_name
    monkeypatch.setattr(
        torch._C, '_get_privateuse1_backend_name', lambda: 'cpu' if vars(
            batchnorm) is sys._getframe(1).f_globals else name())
    dist.init_process_group('fake', rank=0, world_size=2, store=FakeStore())
    try:
        yield calls
    finally:
        dist.destroy_process_group()
