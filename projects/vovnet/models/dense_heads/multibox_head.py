"""SSD's head as in Caffe.

Sources: Liu et al., arXiv:1512.02325, section 2.2; ``MultiBoxLoss`` and
``DetectionOutput`` of sfzhang15/RefineDet@52b6fe2
(``multibox_loss_layer.cpp``, ``bbox_util.cpp``). mmdet 3.3.0's ``SSDHead``,
whose layers and mining these are, differs from Caffe in three things:

- it cannot predict: its base class reads a ``loss_cls`` that it lacks
  (open-mmlab/mmdetection#11780);
- priors of cells that begin outside of the image take no part in the loss;
- an image without objects counts as one match in the losses' denominator.

Unlike Caffe, this clips detections to the image.
"""
import torch
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn


@MODELS.register_module()
class MultiBoxHead(SSDHead):
    """Caffe's multi-box loss and detection.

    For use with ``BipartiteMaxIoUAssigner`` and ``PseudoSampler``. Unlike in
    mmdet, ``nms_pre`` of ``test_cfg`` is the number of boxes of each class
    that enter NMS, from all levels (all boxes if missing or not positive).

    Args:
        *args: See mmdet's ``SSDHead``.
        kernel_size: Size of the predicting convolutions, odd.
        **kwargs: See mmdet's ``SSDHead``.
    """
    loss_cls = None

    def __init__(self, *args, kernel_size: int = 3, **kwargs) -> None:
        self.kernel_size = kernel_size  # SSDHead builds the layers
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        # SSDHead's names. Not MMEngine's ModuleList, by which each ConvModule
        # would initialize itself after init_cfg.
        for kind, width in (('cls', self.cls_out_channels), ('reg', 4)):
            setattr(self, f'{kind}_convs', nn.ModuleList(
                nn.Sequential(self._predictor(channels, priors * width))
                for channels, priors in zip(self.in_channels,
                                            self.num_base_priors)))

    def _predictor(self, in_channels: int, out_channels: int) -> nn.Module:
        return nn.Conv2d(in_channels, out_channels, self.kernel_size,
                         padding=self.kernel_size // 2)

    def get_anchors(self, featmap_sizes: list[tuple],
                    batch_img_metas: list[dict],
                    device: torch.device | str = 'cuda') -> tuple:
        """Make the priors, all of which are valid.

        Returns:
            Priors (n, 4) and flags (n, ), all True: lists by image and level.
        """
        anchors, flags = super().get_anchors(featmap_sizes, batch_img_metas,
                                             device)
        return anchors, [[torch.ones_like(f) for f in levels]
                         for levels in flags]

    def get_targets(self, *args, **kwargs) -> tuple:
        """Match the priors of a batch with its objects.

        Takes the arguments of mmdet's ``AnchorHead.get_targets``.

        Returns:
            Labels, their weights, box targets, their weights (lists of
            tensors (N, n, ...) by level) and the number of matched priors in
            the batch, at least 1.
        """
        labels, *others, _ = super().get_targets(*args, **kwargs)
        matched = sum((level < self.num_classes).sum() for level in labels)
        return labels, *others, matched.clamp(min=1)

    def _predict_by_feat_single(self, cls_score_list: list[Tensor],
                                bbox_pred_list: list[Tensor],
                                score_factor_list: list[None],
                                mlvl_priors: list[Tensor], img_meta: dict,
                                cfg: ConfigDict | None, rescale: bool = False,
                                with_nms: bool = True) -> InstanceData:
        """Decode an image's best boxes of each class and apply NMS."""
        cfg = self.test_cfg if cfg is None else cfg
        scores, deltas = (
            torch.cat([level.permute(1, 2, 0).reshape(-1, width)
                       for level in levels])
            for levels, width in ((cls_score_list, self.cls_out_channels),
                                  (bbox_pred_list, 4)))
        scores, labels, index = select_candidates(
            scores.softmax(-1)[:, :-1], cfg.score_thr, cfg.get('nms_pre', 0))
        bboxes = self.bbox_coder.decode(
            torch.cat(mlvl_priors)[index], deltas[index],
            max_shape=img_meta['img_shape'])
        results = InstanceData(bboxes=bboxes, scores=scores, labels=labels)
        return self._bbox_post_process(results, cfg, rescale, with_nms,
                                       img_meta)


def select_candidates(scores: Tensor, score_thr: float, most: int
                      ) -> tuple[Tensor, Tensor, Tensor]:
    """Select the boxes that enter NMS.

    Args:
        scores: Scores (n, classes) of n boxes.
        score_thr: Only larger scores are selected.
        most: Limit of boxes for each class; none if it is not positive.

    Returns:
        Scores, classes and indices of the boxes, (m, ) each.
    """
    most = min(most, len(scores)) if most > 0 else len(scores)
    best, boxes = scores.topk(most, dim=0)
    # Once, since each search for true elements waits for the GPU.
    ranks, classes = (best > score_thr).nonzero(as_tuple=True)
    return best[ranks, classes], classes, boxes[ranks, classes]
