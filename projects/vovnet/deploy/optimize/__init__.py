"""Fast copies of trained models: folding, compilation, lower precision."""
from .apply import optimize

__all__ = ['optimize']
