"""What a detector does and what it costs."""
from .aggregation_weights import BlockWeights, aggregation_weights
from .complexity import Complexity, complexity
from .detection_sheet import detection_sheet, spread
from .networks import config_complexity

__all__ = ['BlockWeights', 'Complexity', 'aggregation_weights', 'complexity',
           'config_complexity', 'detection_sheet', 'spread']
