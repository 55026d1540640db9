"""What a detector does and what it costs."""
from .detection_sheet import detection_sheet, spread

__all__ = ['detection_sheet', 'spread']
