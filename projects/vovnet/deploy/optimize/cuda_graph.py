"""A function's kernels in a CUDA graph: one launch in place of hundreds.

Source: torch's notes on CUDA graphs (warm-up on a side stream, static inputs).
"""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

LIMIT = 8


class CUDAGraphed:
    """A function that is recorded for each kind of input, and replayed.

    Of two kinds are inputs that differ in shapes, strides, types or in
    anything that is no tensor. Each graph keeps its memory; inputs of a kind
    beyond the first :data:`LIMIT` are computed without one.

    Args:
        function (Callable): Of tensors in any containers; launches kernels
            and waits for none. Not to be differentiated. What it gives is
            overwritten by the next call with inputs of the same kind.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graphs: dict[tuple, tuple] = {}

    def __call__(self, *args, **kwargs) -> Any:
        """Copy the inputs to where the graph reads them, and replay it."""
        leaves, spec = tree_flatten((args, kwargs))
        kind = spec, *((leaf.shape, leaf.stride(), leaf.dtype)
                       if isinstance(leaf, Tensor) else leaf
                       for leaf in leaves)
        if kind not in self._graphs:
            if len(self._graphs) == LIMIT:
                return self.function(*args, **kwargs)
            # What is made in inference mode could not be written elsewhere.
            with torch.inference_mode(False), torch.no_grad():
                self._graphs[kind] = self._record(leaves, spec)
        graph, inputs, outputs = self._graphs[kind]
        for there, leaf in zip(inputs, leaves):
            if isinstance(leaf, Tensor):
                there.copy_(leaf)
        graph.replay()
        return outputs

    def _record(self, leaves: list, spec: Any) -> tuple:
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf
                  for leaf in leaves]
        args, kwargs = tree_unflatten(inputs, spec)
        # What is prepared once, such as cuDNN's choice of algorithms, must
        # not happen while it records.
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
