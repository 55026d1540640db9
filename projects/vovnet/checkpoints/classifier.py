"""A whole published classifier as mmpretrain's ``ImageClassifier``.

Own work; the names were read in mmpretrain 1.2.0
(``models/classifiers/image.py``, ``models/heads/linear_head.py``).
"""
from collections import OrderedDict

from torch import Tensor

from ..utils.errors import UserError
from .weights import Weights, export_weights


def to_classifier(weights: Weights) -> 'OrderedDict[str, Tensor]':
    """Name weights as a classifier with a ``LinearClsHead`` does.

    Args:
        weights: What :func:`~vovnet.checkpoints.read_weights` returned.

    Returns:
        OrderedDict[str, Tensor]: ``backbone.*``, with what the backbone's
        weights assume, and ``head.fc.*``: (classes, channels) and (classes).

    Raises:
        UserError: If the file holds no classifier.
    """
    head, backbone = {}, {}
    for key, value in weights.state_dict.items():
        (head if key.startswith('head.') else backbone)[key] = value
    if not head:
        raise UserError('holds a backbone without a classifier; convert it '
                        "--to mmengine, which init_cfg=dict(type='Pretrained')"
                        ' takes')
    state = export_weights(weights._replace(state_dict=backbone), 'mmengine',
                      'backbone.')
    state.update(head)
    return state
