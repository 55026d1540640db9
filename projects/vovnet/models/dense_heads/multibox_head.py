"""SSD's head with the conduct of the Caffe layers that it comes from.

Sources: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325,
section 2.2; ``MultiBoxLoss`` and ``DetectionOutput`` of
sfzhang15/RefineDet@52b6fe2 (``multibox_loss_layer.cpp``, ``bbox_util.cpp``;
read, not copied). The layers and the mining are those of mmdet 3.3.0's
``SSDHead``, which differs from Caffe, and from this, in three things:

- it cannot predict: its base class asks for a ``loss_cls`` that it has not
  (open-mmlab/mmdetection#11780);
- priors of cells that begin outside of the image take no part in the loss;
- an image without objects counts as one match in the losses' denominator.

One difference from Caffe is left: detections are clipped to the image.
"""
import torch
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn


@MODELS.register_module()
class MultiBoxHead(SSDHead):
    """SSD's multi-box loss and detection, as Caffe has them.

    Made to go with ``BipartiteMaxIoUAssigner`` and ``PseudoSampler``. One
    option of ``test_cfg`` has another meaning than in mmdet: ``nms_pre`` is
    the number of boxes of each class that enter NMS, from all levels (all
    boxes if it is missing or not positive).

    Args:
        *args: As mmdet's ``SSDHead`` takes them.
        kernel_size (int): Of the predicting convolutions, odd.
        **kwargs: As ``SSDHead`` takes them.
    """
    loss_cls = None

    def __init__(self, *args, kernel_size: int = 3, **kwargs) -> None:
        self.kernel_size = kernel_size  # SSDHead builds the layers
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        # With SSDHead's names, and in torch's lists like there: MMEngine's
        # would have each ConvModule initialise itself after init_cfg.
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
        """Give all priors of all images, each of which is valid.

        Args:
            featmap_sizes (list[tuple]): Height and width of each level.
            batch_img_metas (list[dict]): As the data pipeline gives them.
            device (torch.device | str): Of the priors.

        Returns:
            tuple: Priors and flags: per image, per level a tensor (n, 4),
            and (n, ) of True.
        """
        anchors, flags = super().get_anchors(featmap_sizes, batch_img_metas,
                                             device)
        return anchors, [[torch.ones_like(f) for f in levels]
                         for levels in flags]

    def get_targets(self, *args, **kwargs) -> tuple:
        """Match the priors of a batch with its objects.

        Args:
            *args: As ``AnchorHead.get_targets`` takes them.
            **kwargs: The same.

        Returns:
            tuple: Labels, their weights, box targets, their weights (each a
            list with one tensor (N, n, ...) for each level) and the number of
            matched priors in the batch, at least 1.
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
        """Decode an image's best boxes of each class, and suppress."""
        cfg = self.test_cfg if cfg is None else cfg
        scores, deltas = (
            torch.cat([level.permute(1, 2, 0).reshape(-1, width)
                       for level in levels])
            for levels, width in ((cls_score_list, self.cls_out_channels),
                                  (bbox_pred_list, 4)))
        scores, labels, index = best_of_each_class(
            scores.softmax(-1)[:, :-1], cfg.score_thr, cfg.get('nms_pre', 0))
        bboxes = self.bbox_coder.decode(
            torch.cat(mlvl_priors)[index], deltas[index],
            max_shape=img_meta['img_shape'])
        results = InstanceData(bboxes=bboxes, scores=scores, labels=labels)
        return self._bbox_post_process(results, cfg, rescale, with_nms,
                                       img_meta)


def best_of_each_class(scores: Tensor, score_thr: float,
                       most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose what enters NMS.

    Args:
        scores (Tensor): Of n boxes for each class, (n, classes).
        score_thr (float): Only larger scores are chosen.
        most (int): Number of boxes of a class that are chosen at most; all
            if it is not positive.

    Returns:
        tuple[Tensor]: Scores, classes and indices of the boxes, (m, ) each.
    """
    most = min(most, len(scores)) if most > 0 else len(scores)
    best, boxes = scores.topk(most, dim=0)
    # Looked for once: each look at how many there are waits for a GPU.
    ranks, classes = (best > score_thr).nonzero(as_tuple=True)
    return best[ranks, classes], classes, boxes[ranks, classes]
