"""What a detector does and what it costs."""
from .aggregation_weights import BlockWeights, aggregation_weights
from .benchmark import Entry, Plan, Report, Result, benchmark
from .complexity import Complexity, complexity
from .detection_sheet import detection_sheet, spread
from .networks import config_complexity
from .subject import Input

__all__ = [
    'BlockWeights', 'Complexity', 'Entry', 'Input', 'Plan', 'Report', 'Result',
    'aggregation_weights', 'benchmark', 'complexity', 'config_complexity',
    'detection_sheet', 'spread'
]
