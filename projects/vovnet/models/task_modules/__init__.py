from .bipartite_max_iou_assigner import BipartiteMaxIoUAssigner
from .prior_box_generator import PriorBoxGenerator

__all__ = ['BipartiteMaxIoUAssigner', 'PriorBoxGenerator']
