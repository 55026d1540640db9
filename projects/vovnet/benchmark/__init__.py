"""Throughput, latency, memory and energy of models, side by side."""
from .inference import Entry, Plan, Report, Result, benchmark_inference
from .model import Input

__all__ = [
    'Entry', 'Input', 'Plan', 'Report', 'Result', 'benchmark_inference'
]
