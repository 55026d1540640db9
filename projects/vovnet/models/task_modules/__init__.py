from .bipartite_max_iou_assigner import BipartiteMaxIoUAssigner

__all__ = ['BipartiteMaxIoUAssigner']
