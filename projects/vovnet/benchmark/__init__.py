"""Throughput, latency, memory and energy of models, side by side."""
from .inference import (
    BenchmarkEntry,
    Plan,
    Report,
    Result,
    benchmark_inference,
)
from .model import InputConfig

__all__ = [
    'BenchmarkEntry', 'InputConfig', 'Plan', 'Report', 'Result',
    'benchmark_inference'
]
