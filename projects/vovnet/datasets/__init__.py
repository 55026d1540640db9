"""Generated data sets and transforms."""
from .shape_folders import TEN_CLASSES, draw_picture, make_shape_folders
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
    'KeepDifficultObjects', 'SHAPE_CLASSES', 'Scene', 'Shape', 'TEN_CLASSES',
    'draw_picture', 'draw_scene', 'make_shape_folders', 'make_shapes',
    'trace_polygons'
]
