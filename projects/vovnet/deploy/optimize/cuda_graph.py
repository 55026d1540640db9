"""Functions recorded as CUDA graphs: one launch in place of hundreds.

Follows torch's notes on CUDA graphs: warm-up on a side stream, static inputs.
"""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

LIMIT = 8


class CUDAGraphed:
    """Function that is recorded once for each kind of input, then replayed.

    Inputs are of one kind if their tensors have the same shapes, strides and
    types, and all else is equal. Each graph keeps its memory; after
    :data:`LIMIT` kinds, further ones run without a graph.

    Args:
        function: Takes and returns tensors in any containers, launches
            kernels and waits for none. Its outputs are overwritten by the
            next call with the same kind of input, and have no gradient.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graphs: dict[tuple, tuple] = {}

    def __call__(self, *args, **kwargs) -> Any:
        """Copy the inputs to the graph's static ones and replay it."""
        leaves, spec = tree_flatten((args, kwargs))
        kind = spec, *((leaf.shape, leaf.stride(), leaf.dtype)
                       if isinstance(leaf, Tensor) else leaf
                       for leaf in leaves)
        if kind not in self._graphs:
            if len(self._graphs) == LIMIT:
                return self.function(*args, **kwargs)
            # Tensors made in inference mode could not be written to later.
            with torch.inference_mode(False), torch.no_grad():
                self._graphs[kind] = self._record(leaves, spec)
        graph, inputs, outputs = self._graphs[kind]
        for static, leaf in zip(inputs, leaves):
            if isinstance(leaf, Tensor):
                static.copy_(leaf)
        graph.replay()
        return outputs

    def _record(self, leaves: list, spec: Any) -> tuple:
        """Return a graph with its static inputs and outputs."""
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf
                  for leaf in leaves]
        args, kwargs = tree_unflatten(inputs, spec)
        # One-time work, such as cuDNN's choice of algorithms, must not be
        # recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # A data loader's thread may pin memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            outputs = self.function(*args, **kwargs)
        return graph, inputs, outputs
