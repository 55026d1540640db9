"""RefineDet's head: anchors are refined, then classified and refined again.

Sources: Zhang et al., arXiv:1711.06897, sections 3.1 to 3.3; Caffe code of its
authors, sfzhang15/RefineDet@52b6fe2 (``CreateRefineDetHead``,
``multibox_loss_layer.cpp``, ``bbox_util.cpp``), and of VoVNet's author,
youngwanLEE/VoVNet-RefineDet@46fb3c5. Where the paper and the code differ,
this follows the code:

- a residual block precedes every pair of predictors (not with VGG);
- anchors with an objectness below 0.01 are neither mined as negatives nor
  detected; as positives they stay in the loss.

Unlike Caffe, this clips detections to the image, before NMS.
"""
from collections.abc import Sequence

import torch
from mmdet.models.backbones.resnet import Bottleneck
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..necks.refinedet_neck import build_residual_block
from .multibox_head import MultiBoxHead, select_candidates

Maps = Sequence[Tensor]


def flatten(maps: Maps, channels: int) -> Tensor:
    """Join levels (N, A * channels, H, W) to (N, P, channels).

    Anchors are in the order of mmdet's ``grid_priors``.
    """
    return torch.cat([
        x.permute(0, 2, 3, 1).reshape(len(x), -1, channels) for x in maps], 1)


@MODELS.register_module()
class RefineMultiBoxHead(MultiBoxHead):
    """One of RefineDet's two modules: SSD's head on given anchors.

    Args:
        num_classes: Classes without the background; 1 for the ARM.
        in_channels: Channels of the maps.
        inter_planes: Inner channels of the residual block before the
            predictors, which see four times as many; None for no block.
        norm_cfg: Config of its norm layers.
        init_cfg: By default Caffe's: Gaussian, and xavier in the predictors.
        **kwargs: See mmdet's ``SSDHead``; ``train_cfg`` needs ``assigner``,
            ``smoothl1_beta``, ``neg_pos_ratio``, ``allowed_border`` and
            ``pos_weight``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        inter_planes: int | None = 256,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
        **kwargs,
    ) -> None:
        predictors = [dict(type='Caffe2Xavier', layer='Conv2d', name=name)
                      for name in ('cls_convs', 'reg_convs')]
        widths = [inter_planes * Bottleneck.expansion] * len(in_channels) \
            if inter_planes else in_channels
        super().__init__(
            num_classes, widths, init_cfg=init_cfg or dict(
                type='Normal', std=0.01, layer='Conv2d', override=predictors),
            **kwargs)
        levels = self.prior_generator.num_levels
        if len(in_channels) != levels:
            raise ValueError(
                f'{type(self).__name__}: in_channels={tuple(in_channels)} are '
                f'{len(in_channels)} levels, anchor_generator has {levels}; '
                'give as many strides')
        self.inter_blocks = nn.ModuleList(
            build_residual_block(channels, inter_planes, 1, norm_cfg)
            if inter_planes else nn.Identity() for channels in in_channels)

    def forward(self, x: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Predict from maps (N, in_channels[i], H, W).

        Returns:
            For each level scores (N, A * (num_classes + 1), H, W), the
            background last, and deltas (N, A * 4, H, W).
        """
        return super().forward(
            [block(level) for block, level in zip(self.inter_blocks, x)])

    @torch.no_grad()
    def refine_anchors(self, bbox_preds: Maps) -> list[list[Tensor]]:
        """Move the anchors by the predicted deltas, without clipping.

        Returns:
            For each image and level boxes (n, 4), px, without gradient.
        """
        anchors = self.prior_generator.grid_priors(
            [x.shape[-2:] for x in bbox_preds], device=bbox_preds[0].device)
        levels = [
            self.bbox_coder.decode(
                boxes.repeat(len(x), 1), flatten([x], 4).reshape(-1, 4)
            ).view(len(x), -1, 4) for boxes, x in zip(anchors, bbox_preds)]
        return [list(image) for image in zip(*levels)]

    def loss_by_feat(
        self,
        cls_scores: Maps,
        bbox_preds: Maps,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
        *,
        anchor_list: list[list[Tensor]] | None = None,
        neg_flags: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute the losses, over the positives of the whole batch.

        Caffe's ``MultiBoxLoss``: cross-entropy of the positives and of three
        times as many hardest negatives of each image, smooth L1 of the
        positives, both divided by the number of positives in the batch (or by
        1). An image without objects contributes nothing.

        Args:
            cls_scores: See :meth:`forward`.
            bbox_preds: See :meth:`forward`.
            batch_gt_instances: Objects: ``bboxes`` (k, 4), px, and ``labels``
                (k, ).
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: Objects that the assigner may ignore.
            anchor_list: Boxes to start from, as returned by
                :meth:`refine_anchors`; the anchors by default.
            neg_flags: Anchors that may serve as negatives, (N, P); all by
                default.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a tensor for each image.
        """
        anchors, valid_flags = self.get_anchors(
            [x.shape[-2:] for x in cls_scores], batch_img_metas,
            cls_scores[0].device)
        anchors = anchor_list or anchors
        *targets, matched = self.get_targets(
            anchors, valid_flags, batch_gt_instances, batch_img_metas,
            batch_gt_instances_ignore)
        labels, label_weights, bbox_targets, bbox_weights = (
            torch.cat(levels, 1) for levels in targets)
        if neg_flags is not None:
            # A negative of weight 0 has loss 0, so that mining passes it by.
            label_weights = label_weights * (
                (labels < self.num_classes) | neg_flags)
        losses_cls, losses_bbox = multi_apply(
            self.loss_by_feat_single,
            flatten(cls_scores, self.cls_out_channels),
            flatten(bbox_preds, 4),
            [torch.cat(image) for image in anchors],
            labels, label_weights, bbox_targets, bbox_weights,
            avg_factor=matched)
        return dict(loss_cls=losses_cls, loss_bbox=losses_bbox)


@MODELS.register_module()
class RefineDetHead(BaseDenseHead):
    """Anchor refinement module (ARM) and object detection module (ODM).

    The ARM tells objects from background and moves the anchors; the ODM tells
    the classes and moves the refined anchors. The ODM's loss does not train
    the ARM through the anchors. Works on :class:`RefineDetNeck`'s two sets of
    maps in any single-stage detector.

    Args:
        num_classes: Classes without the background.
        in_channels: Channels of the ARM's maps.
        feat_channels: Channels of each of the ODM's maps.
        anchor_generator: Config of the anchors, a level for each map.
        bbox_coder: Config of both modules' box coder.
        inter_planes: See :class:`RefineMultiBoxHead`; None for VGG.
        norm_cfg: Config of the norm layers of these blocks.
        objectness_thr: Anchors to which the ARM gives a lower probability of
            being an object are neither mined as negatives nor detected.
        train_cfg: ``arm`` and ``odm``, see :class:`RefineMultiBoxHead`.
        test_cfg: ``score_thr``, ``nms_pre`` (candidates of each class),
            ``nms``, ``max_per_img``, ``min_bbox_size``.
        init_cfg: None; the modules have their own.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        feat_channels: int,
        anchor_generator: dict,
        bbox_coder: dict,
        inter_planes: int | None = 256,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        objectness_thr: float = 0.01,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.objectness_thr = objectness_thr
        self.test_cfg = test_cfg
        train_cfg = train_cfg or {}
        shared = dict(
            inter_planes=inter_planes, norm_cfg=norm_cfg,
            anchor_generator=anchor_generator, bbox_coder=bbox_coder)
        # NumClassCheckHook allows a number of classes that is not the data
        # set's to a module whose name ends like this.
        self.arm_rpn_head = RefineMultiBoxHead(
            1, in_channels, train_cfg=train_cfg.get('arm'), **shared)
        self.odm_head = RefineMultiBoxHead(
            num_classes, [feat_channels] * len(in_channels),
            train_cfg=train_cfg.get('odm'), **shared)

    def forward(self, x: tuple[Maps, Maps]) -> tuple[list[Tensor], ...]:
        """Predict from the neck's maps for the ARM and for the ODM.

        Returns:
            ARM scores, ARM deltas, ODM scores, ODM deltas; see
            :meth:`RefineMultiBoxHead.forward`.
        """
        arm, odm = x
        return *self.arm_rpn_head(arm), *self.odm_head(odm)

    def find_objects(self, arm_cls: Maps) -> Tensor:
        """Tell which anchors (N, P) are not certainly background."""
        probabilities = flatten(arm_cls, 2).detach().softmax(-1)
        return probabilities[..., 0] >= self.objectness_thr

    def loss_by_feat(
        self,
        arm_cls: Maps,
        arm_reg: Maps,
        odm_cls: Maps,
        odm_reg: Maps,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute the losses of both modules, of equal weight.

        See :meth:`forward` and :meth:`RefineMultiBoxHead.loss_by_feat` for
        the arguments.

        Returns:
            ``arm_loss_cls``, ``arm_loss_bbox``, ``odm_loss_cls`` and
            ``odm_loss_bbox``, a tensor for each image.
        """
        objects = [InstanceData(bboxes=gt.bboxes,
                                labels=torch.zeros_like(gt.labels))
                   for gt in batch_gt_instances]
        truth = batch_img_metas, batch_gt_instances_ignore
        arm = self.arm_rpn_head.loss_by_feat(
            arm_cls, arm_reg, objects, *truth)
        odm = self.odm_head.loss_by_feat(
            odm_cls, odm_reg, batch_gt_instances, *truth,
            anchor_list=self.arm_rpn_head.refine_anchors(arm_reg),
            neg_flags=self.find_objects(arm_cls))
        return {f'{name}_{key}': loss
                for name, losses in (('arm', arm), ('odm', odm))
                for key, loss in losses.items()}

    def predict_by_feat(
        self,
        arm_cls: Maps,
        arm_reg: Maps,
        odm_cls: Maps,
        odm_reg: Maps,
        batch_img_metas: Sequence[dict],
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Decode the boxes in two steps and keep the best.

        Args:
            arm_cls, arm_reg, odm_cls, odm_reg: See :meth:`forward`.
            batch_img_metas: ``img_shape`` and, to rescale, ``scale_factor``.
            cfg: Replaces ``test_cfg``.
            rescale: Return boxes in pixels of the original image.
            with_nms: Suppress overlapping boxes of a class.

        Returns:
            For each image ``bboxes`` (n, 4), px, ``scores`` (n, ) and
            ``labels`` (n, ).
        """
        cfg = cfg or self.test_cfg
        keep = self.find_objects(arm_cls)
        probs = flatten(odm_cls, self.num_classes + 1).softmax(-1)[..., :-1]
        results = []
        for image, deltas, anchors, meta in zip(
                probs * keep[..., None], flatten(odm_reg, 4),
                self.arm_rpn_head.refine_anchors(arm_reg), batch_img_metas):
            scores, labels, index = select_candidates(
                image, cfg.score_thr, cfg.get('nms_pre', 0))
            bboxes = self.odm_head.bbox_coder.decode(
                torch.cat(anchors)[index], deltas[index],
                max_shape=meta['img_shape'])
            results.append(self._bbox_post_process(
                InstanceData(bboxes=bboxes, scores=scores, labels=labels),
                cfg, rescale, with_nms, meta))
        return results
