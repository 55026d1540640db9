"""Generated data sets."""
from .shapes import (
    SHAPE_CLASSES,
    Scene,
    Shape,
    draw_scene,
    make_shapes,
    trace_polygons,
)

__all__ = [
    'SHAPE_CLASSES', 'Scene', 'Shape', 'draw_scene', 'make_shapes',
    'trace_polygons'
]
