"""CUDA graphs on a CPU: operators on fixed tensors, noted and run again."""
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """Runs noted operators on the tensors that they had."""

    def __init__(self):
        self.steps = []
        self.replays = 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, out in self.steps:
                again = function(*args, **kwargs)
                for there, new in zip(tree_leaves(out), tree_leaves(again)):
                    if isinstance(there, torch.Tensor):
                        there.copy_(new)


class Recorder(TorchDispatchMode):

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        self.graph.steps.append((function, args, kwargs or {}, out))
        return out


def install(monkeypatch):
    """Put these in place of CUDA's.

    Returns:
        list[Graph]: What is recorded from now on.
    """
    graphs = []
    stream = SimpleNamespace(wait_stream=lambda other: None)

    def make():
        graphs.append(Graph())
        return graphs[-1]

    @contextmanager
    def graph(graph, capture_error_mode):
        with Recorder(graph):
            yield

    for name, value in dict(
            Stream=lambda: stream, current_stream=lambda: stream,
            stream=lambda stream: nullcontext(), CUDAGraph=make,
            graph=graph).items():
        monkeypatch.setattr(torch.cuda, name, value)
    return graphs
