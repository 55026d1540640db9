"""mmcv's compiled module ``mmcv._ext``, made of torchvision's kernels.

``vovnet_mmcv_ext`` loads this file under the name ``mmcv._ext``. mmcv's
own ``mmcv/ops/*.py`` stay as they are: they allocate the results, call a
function of this module to fill them, and keep what the backward pass
needs. The file imports only torch and torchvision, because mmcv asks for
it half-way through its own import.

Source: the calls in ``mmcv/ops/*.py`` of mmcv 2.1.0 and what its C++ and
CUDA sources (``mmcv/ops/csrc``) compute; torchvision 0.26 for the
kernels. What differs from compiled mmcv:

* float16 and bfloat16 are computed in float32 and given back in the type
  of the result; compiled mmcv has no bfloat16 for most operators.
* The focal losses run on the CPU too, use a stable log-sigmoid where mmcv
  clips a probability, and weigh a label outside the classes by 1, where
  mmcv reads past the end of the weights.
* RoIAlign takes boxes of negative size (it pools zeros or mirrors, as
  torchvision does); mmcv refuses them on the CPU. Its ``max`` mode and
  RoIPool are missing: torchvision has no such mode, and its RoIPool
  rounds boxes to whole pixels where mmcv takes every pixel they touch, so
  it would be silently wrong.
* Under ``torch.use_deterministic_algorithms(True)`` the backward pass of
  RoIAlign on CUDA raises, as torchvision's does; mmcv's goes on silently.
* A name that is not here gives a function that raises when called.
"""
import functools

import torch
import torch.nn.functional as F
import torchvision

_TINY = torch.finfo(torch.float32).tiny  # FLT_MIN, where mmcv clips


# ---------------------------------------------------------------- helpers
def _widen(like, *others):
    """Cast all to the type of the first, but to no less than float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return [tensor.to(dtype) for tensor in (like, *others)]


def _overlaps(boxes1, boxes2, iof=False, offset=0):
    """Overlap of boxes (..., 4) that broadcast against each other: (...)."""
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    shared = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1)
                    for boxes in (boxes1, boxes2))
    return shared / (area1 if iof else area1 + area2 - shared)


# ------------------------------------------------------------------ boxes
def nms(boxes, scores, iou_threshold, offset):
    """Suppress boxes whose IoU with a better one exceeds the threshold.

    Args:
        boxes (Tensor): (N, 4), x1, y1, x2, y2 in pixels.
        scores (Tensor): (N, ).
        iou_threshold (float): Boxes at exactly this IoU are kept.
        offset (int): A width is x2 - x1 + offset.

    Returns:
        Tensor: int64 indices of the kept boxes, best score first.
    """
    boxes, scores = _widen(boxes, scores)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # torchvision's CPU kernel compares with a double: at an IoU of float32
    # 0.3 it would suppress what mmcv, which compares in float32, keeps.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    if boxes.is_cuda:
        return torchvision.ops.nms(boxes, scores, threshold)
    # torchvision's sort is stable, mmcv's is not: sorted its way first,
    # equal scores stay in mmcv's order. (On CUDA that is any order.)
    scores, order = scores.sort(descending=True)
    return order[torchvision.ops.nms(boxes[order], scores, threshold)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method,
            offset):
    """Lower the scores of overlapping boxes instead of dropping them.

    Args:
        boxes (Tensor): (N, 4), x1, y1, x2, y2 in pixels, on the CPU.
        scores (Tensor): (N, ).
        dets (Tensor): (N, 5), filled with the kept boxes and their new
            scores in the order in which they were picked.
        iou_threshold (float): From this IoU on ``naive`` and ``linear``
            act.
        sigma (float): Width of the ``gaussian`` method.
        min_score (float): Boxes whose score falls below are dropped.
        method (int): 0 ``naive``, 1 ``linear``, 2 ``gaussian``.
        offset (int): A width is x2 - x1 + offset.

    Returns:
        Tensor: int64 indices of the K kept boxes; ``dets[:K]`` is filled.
    """
    boxes, scores = _widen(boxes, scores.clone())
    left = torch.arange(len(boxes))
    picked = []
    while len(left):
        top = int(scores[left].argmax())
        best = int(left[top])
        picked.append(best)
        # The places that mmcv's swaps give to the rest decide its ties.
        left[top] = left[0]
        left = left[1:]
        iou = _overlaps(boxes[best], boxes[left], offset=offset)
        if method == 2:
            decay = torch.exp(-iou**2 / sigma)
        else:
            lowered = 1 - iou if method == 1 else torch.zeros_like(iou)
            decay = torch.where(iou >= iou_threshold, lowered, 1)
        scores[left] *= decay
        alive = scores[left] >= min_score
        # mmcv fills the place of a dropped box with the last living one.
        count = int(alive.sum())
        from_end = alive[count:].nonzero()[:, 0].flip(0) + count
        left[:count][~alive[:count]] = left[from_end]
        left = left[:count]
    inds = torch.tensor(picked, dtype=torch.long)
    dets[:len(inds)] = torch.cat([boxes[inds], scores[inds, None]], dim=1)
    return inds


def nms_match(dets, iou_threshold):
    """Group boxes with the better box that suppresses them.

    Args:
        dets (Tensor): (N, 5), x1, y1, x2, y2 in pixels and score, on the
            CPU.
        iou_threshold (float): Boxes at exactly this IoU are suppressed.

    Returns:
        list[list[int]]: One group per kept box, that box first.
    """
    dets, = _widen(dets)
    left = dets[:, 4].argsort(descending=True)
    groups = []
    while len(left):
        iou = _overlaps(dets[left[0], :4], dets[left[1:], :4])
        matched = iou >= iou_threshold
        groups.append([int(left[0]), *left[1:][matched].tolist()])
        left = left[1:][~matched]
    return groups


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """Fill ``ious`` with the overlaps of two sets of boxes.

    Args:
        bboxes1 (Tensor): (M, 4), x1, y1, x2, y2 in pixels.
        bboxes2 (Tensor): (N, 4).
        ious (Tensor): (M, N), or (M, ) if ``aligned``, filled.
        mode (int): 0 over the union, 1 over the area of ``bboxes1``.
        aligned (bool): Pair by pair (M equals N) instead of all pairs.
        offset (int): A width is x2 - x1 + offset.
    """
    bboxes1, bboxes2 = _widen(bboxes1, bboxes2)
    if not aligned:
        bboxes1 = bboxes1[:, None]
    ious.copy_(_overlaps(bboxes1, bboxes2, iof=mode == 1, offset=offset))


# ---------------------------------------------------------------- pooling
def roi_align_forward(input, rois, output, argmax_y, argmax_x,
                      aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    """Fill ``output`` with bilinear averages over the bins of each box.

    Args:
        input (Tensor): (N, C, H, W).
        rois (Tensor): (K, 5), index into N and x1, y1, x2, y2 in pixels of
            the image.
        output (Tensor): (K, C, aligned_height, aligned_width), filled.
        argmax_y (Tensor): Not used.
        argmax_x (Tensor): Not used.
        aligned_height (int): Bins per column.
        aligned_width (int): Bins per row.
        spatial_scale (float): From image to ``input`` pixels.
        sampling_ratio (int): Points per bin and axis; 0 takes the rounded
            up size of the bin.
        pool_mode (int): 1, the average.
        aligned (bool): Whether pixel centres lie at half integers.

    Raises:
        NotImplementedError: With ``pool_mode`` 0, the maximum.
    """
    if pool_mode != 1:
        _missing("roi_align (pool_mode='max')")()
    output.copy_(
        torch.ops.torchvision.roi_align(*_widen(input, rois), spatial_scale,
                                        aligned_height, aligned_width,
                                        sampling_ratio, aligned))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input,
                       aligned_height, aligned_width, spatial_scale,
                       sampling_ratio, pool_mode, aligned):
    """Fill ``grad_input``; the rest is as in ``roi_align_forward``."""
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            *_widen(grad_output, rois), spatial_scale, aligned_height,
            aligned_width, *grad_input.shape, sampling_ratio, aligned))


# ----------------------------------------------------------------- losses
def _sigmoid_focal_terms(input, target, weight, gamma, alpha):
    """What the loss and its gradient share, for each class on its own.

    With z the logit, negated where the class is not the target, and
    p = sigmoid(z), the loss is -scale (1 - p)^gamma log p.

    Returns:
        tuple[Tensor]: (N, C) each: scale * (1 - p)^gamma, 1 - p, log p and
        the sign of z.
    """
    input, = _widen(input)
    num_classes = input.size(1)
    positive = target[:, None] == torch.arange(
        num_classes, device=target.device)
    sign = torch.where(positive, 1., -1.).to(input)
    scale = torch.where(positive, alpha, 1 - alpha).to(input)
    if weight.numel():
        outside = (target < 0) | (target >= num_classes)
        scale *= torch.where(outside, 1,
                             weight[target.masked_fill(outside, 0)])[:, None]
    rest = torch.sigmoid(-sign * input)
    return scale * rest**gamma, rest, F.logsigmoid(sign * input), sign


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Fill ``output`` with the focal loss of independent classes.

    Args:
        input (Tensor): (N, C), logits.
        target (Tensor): (N, ), int64 class; any number outside 0..C-1 is
            background.
        weight (Tensor): (C, ) factor per target class, or empty.
        output (Tensor): (N, C), filled.
        gamma (float): Focusing power.
        alpha (float): Factor of the positives; 1 - alpha is that of the
            negatives.
    """
    focus, _, log_p, _ = _sigmoid_focal_terms(input, target, weight, gamma,
                                              alpha)
    output.copy_(-focus * log_p)


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma,
                                alpha):
    """Fill ``grad_input`` (N, C); see ``sigmoid_focal_loss_forward``."""
    focus, rest, log_p, sign = _sigmoid_focal_terms(input, target, weight,
                                                    gamma, alpha)
    grad_input.copy_(-sign * focus * (rest - gamma * (1 - rest) * log_p))


def _softmax_focal_terms(softmax, target, weight):
    """Probability (N, 1) and scale (N, 1) of the targets; see below."""
    softmax, = _widen(softmax)
    label = target[:, None].clamp(min=0)
    scale = (target[:, None] >= 0).to(softmax)
    if weight.numel():
        scale = scale * weight[label]
    return softmax.gather(1, label).clamp(min=_TINY), scale


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Fill ``output`` with the focal loss of exclusive classes.

    Args:
        input (Tensor): (N, C), probabilities (the softmax).
        target (Tensor): (N, ), int64 class; a negative one has no loss.
        weight (Tensor): (C, ) factor per target class, or empty.
        output (Tensor): (N, ), filled.
        gamma (float): Focusing power.
        alpha (float): Factor of all.
    """
    p, scale = _softmax_focal_terms(input, target, weight)
    loss = -alpha * scale * (1 - p)**gamma * p.log()
    output.copy_(loss[:, 0])


def softmax_focal_loss_backward(input, target, weight, buff, grad_input,
                                gamma, alpha):
    """Fill ``grad_input`` (N, C), with respect to the logits.

    ``buff`` is not used; the rest is as in ``softmax_focal_loss_forward``.
    """
    p, scale = _softmax_focal_terms(input, target, weight)
    rest = 1 - p
    slope = gamma * rest.clamp(min=_TINY)**(gamma - 1)
    outer = alpha * scale * (slope * p * p.log() - rest**gamma)
    hot = F.one_hot(target.clamp(min=0), input.size(1))
    grad_input.copy_(outer * (hot - input))


# --------------------------------------------------- deformable convolution
def _deform_operands(input, weight, offset, mask, bias):
    """Tensor arguments of torchvision's operator, in its order and type."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return [t.contiguous() for t in _widen(input, weight, offset, mask, bias)]


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH,
                        dW, dH, padW, padH, dilationW, dilationH, group,
                        deformable_group, im2col_step):
    """Fill ``output`` with the deformable convolution (DCN v1).

    Args:
        input (Tensor): (N, C, H, W).
        weight (Tensor): (C_out, C / group, kH, kW).
        offset (Tensor): (N, deformable_group * kH * kW * 2, H_out, W_out),
            y before x, in pixels of ``input``.
        output (Tensor): (N, C_out, H_out, W_out), filled.
        columns (Tensor): Not used.
        ones (Tensor): Not used.
        kW, kH (int): Size of the kernel.
        dW, dH (int): Stride.
        padW, padH (int): Zero padding.
        dilationW, dilationH (int): Dilation.
        group (int): Groups of the convolution.
        deformable_group (int): Groups of the offsets.
        im2col_step (int): Not used: torchvision chooses its own.
    """
    output.copy_(
        torch.ops.torchvision.deform_conv2d(
            *_deform_operands(input, weight, offset, None, None), dH, dW,
            padH, padW, dilationH, dilationW, group, deformable_group, False))


def _deform_conv_backward(input, weight, offset, grad_output, geometry):
    """Gradients of DCN v1: input, weight, offset (and two unused ones)."""
    operands = _deform_operands(input, weight, offset, None, None)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(operands[0]), *operands, *geometry, False)


def deform_conv_backward_input(input, offset, grad_output, grad_input,
                               grad_offset, weight, columns, kW, kH, dW, dH,
                               padW, padH, dilationW, dilationH, group,
                               deformable_group, im2col_step):
    """Fill ``grad_input`` and ``grad_offset``; see the forward function."""
    grads = _deform_conv_backward(
        input, weight, offset, grad_output,
        (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight,
                                    columns, ones, kW, kH, dW, dH, padW,
                                    padH, dilationW, dilationH, group,
                                    deformable_group, scale, im2col_step):
    """Add ``scale`` times the gradient to ``grad_weight``."""
    weight = torch.zeros_like(grad_weight)  # its own gradient needs no value
    grads = _deform_conv_backward(
        input, weight, offset, grad_output,
        (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group))
    grad_weight.add_(grads[1].to(grad_weight), alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask,
                                  output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w,
                                  dilation_h, dilation_w, group,
                                  deformable_group, with_bias):
    """Fill ``output`` with the modulated convolution (DCN v2).

    Args:
        input (Tensor): (N, C, H, W).
        weight (Tensor): (C_out, C / group, kernel_h, kernel_w).
        bias (Tensor): (C_out, ), read if ``with_bias``.
        ones (Tensor): Not used.
        offset (Tensor): (N, deformable_group * kernel_h * kernel_w * 2,
            H_out, W_out), y before x, in pixels of ``input``.
        mask (Tensor): (N, deformable_group * kernel_h * kernel_w, H_out,
            W_out), factor of each sample.
        output (Tensor): (N, C_out, H_out, W_out), filled.
        columns (Tensor): Not used.
        kernel_h, kernel_w (int): Size of the kernel.
        stride_h, stride_w (int): Stride.
        pad_h, pad_w (int): Zero padding.
        dilation_h, dilation_w (int): Dilation.
        group (int): Groups of the convolution.
        deformable_group (int): Groups of offset and mask.
        with_bias (bool): Whether to add ``bias``.
    """
    output.copy_(
        torch.ops.torchvision.deform_conv2d(
            *_deform_operands(input, weight, offset, mask,
                              bias if with_bias else None), stride_h,
            stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
            deformable_group, True))


def modulated_deform_conv_backward(
        input, weight, bias, ones, offset, mask, columns, grad_input,
        grad_weight, grad_bias, grad_offset, grad_mask, grad_output, kernel_h,
        kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, deformable_group, with_bias):
    """Fill the five gradients; see ``modulated_deform_conv_forward``."""
    operands = _deform_operands(input, weight, offset, mask,
                                bias if with_bias else None)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(operands[0]), *operands, stride_h, stride_w, pad_h,
        pad_w, dilation_h, dilation_w, group, deformable_group, True)
    if not with_bias:
        grads = grads[:4]
    for filled, grad in zip(
        (grad_input, grad_weight, grad_offset, grad_mask, grad_bias), grads):
        filled.copy_(grad)


# ------------------------------------------------------------ about itself
def get_compiler_version():
    """Say, where mmcv names its compiler, whose kernels are in use."""
    return f'none, kernels of torchvision {torchvision.__version__}'


def get_compiling_cuda_version():
    """CUDA version of torch, which torchvision has to share."""
    return torch.version.cuda or 'not available'


@functools.cache
def _missing(name):
    """Stand-in for an operator: raises when called, not when imported."""

    def operator(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv's operator '{name}' is not among those that vovnet.ops "
            'takes from torchvision: install compiled mmcv instead of '
            'mmcv-lite (MMCV_WITH_OPS=1 pip install --no-build-isolation '
            'mmcv==2.1.0; see docs/install.md)')

    operator.__name__ = operator.__qualname__ = name
    operator.__doc__ = f"Stand-in for mmcv's compiled '{name}': raises."
    return operator


def __getattr__(name):
    # Python's own questions (__path__, __wrapped__, ...) get a true answer.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return _missing(name)
