"""What a detector does and what it costs."""
from .complexity import Complexity, complexity
from .detection_sheet import detection_sheet, spread
from .networks import config_complexity

__all__ = ['Complexity', 'complexity', 'config_complexity',
           'detection_sheet', 'spread']
