"""Generated data sets and transforms."""
from .shapes import (
    SHAPE_CLASSES,
    Scene,
    Shape,
    draw_scene,
    make_shapes,
    trace_polygons,
)
from .transforms import KeepDifficultObjects

__all__ = [
    'KeepDifficultObjects', 'SHAPE_CLASSES', 'Scene', 'Shape', 'draw_scene',
    'make_shapes', 'trace_polygons'
]
