"""Analyses of models: their cost, weights and detections."""
from .aggregation_weights import BlockWeights, compute_aggregation_weights
from .complexity import (
    Complexity,
    compute_complexity,
    compute_config_complexity,
)
from .detection_sheet import draw_detection_sheet, sample_evenly

__all__ = [
    'BlockWeights', 'Complexity', 'compute_aggregation_weights',
    'compute_complexity', 'compute_config_complexity', 'draw_detection_sheet',
    'sample_evenly'
]
