"""mmcv's compiled module ``mmcv._ext``, made of torchvision's kernels.

``vovnet_mmcv_ext`` loads this file as ``mmcv._ext``. mmcv's own
``mmcv/ops/*.py`` allocate the results and call these functions to fill them.
Only torch and torchvision are imported, because mmcv loads this module during
its own import.

Reproduces mmcv 2.1.0 (``mmcv/ops``) on torchvision 0.26, except that:

* float16 and bfloat16 are computed in float32 and returned in the type of
  the result; compiled mmcv has no bfloat16 for most operators.
* The focal losses also run on the CPU, use a stable log-sigmoid where mmcv
  clips a probability, and weigh a label outside the classes by 1, where mmcv
  reads past the end of the weights.
* RoIAlign takes boxes of negative size, which mmcv refuses on the CPU. Under
  ``torch.use_deterministic_algorithms(True)`` its backward pass raises on
  CUDA; mmcv's does not.
* RoIAlign's ``max`` mode and RoIPool are missing: torchvision has no such
  mode, and its RoIPool rounds boxes to whole pixels where mmcv takes every
  pixel they touch. Like any other missing operator, they raise when called.
"""
import functools

import torch
import torch.nn.functional as F
import torchvision

_TINY = torch.finfo(torch.float32).tiny  # FLT_MIN, where mmcv clips


# ---------------------------------------------------------------- helpers
def _widen(like, *others):
    """Cast all to the type of the first, but at least to float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return [tensor.to(dtype) for tensor in (like, *others)]


def _compute_overlaps(boxes1, boxes2, iof=False, offset=0):
    """Return overlaps (...) of boxes (..., 4) that broadcast."""
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    shared = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1)
                    for boxes in (boxes1, boxes2))
    return shared / (area1 if iof else area1 + area2 - shared)


# ------------------------------------------------------------------ boxes
# Boxes are (N, 4): x1, y1, x2, y2 in pixels. Scores are (N, ). A width is
# x2 - x1 + offset, with an offset of 0 or 1.
def nms(boxes, scores, iou_threshold, offset):
    """Suppress boxes whose IoU with a better one exceeds the threshold.

    Returns:
        int64 indices of the kept boxes, best score first.
    """
    boxes, scores = _widen(boxes, scores)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # torchvision's CPU kernel compares with a double: at an IoU of float32
    # 0.3 it would suppress what mmcv, which compares in float32, keeps.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    if boxes.is_cuda:
        return torchvision.ops.nms(boxes, scores, threshold)
    # torchvision's sort is stable, mmcv's is not: after sorting mmcv's way,
    # equal scores stay in mmcv's order. (On CUDA that is any order.)
    scores, order = scores.sort(descending=True)
    return order[torchvision.ops.nms(boxes[order], scores, threshold)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method,
            offset):
    """Lower the scores of overlapping boxes instead of dropping them.

    Args:
        dets: (N, 5), its first K rows are filled with the kept boxes and
            their new scores in the order in which they were picked.
        iou_threshold: From this IoU on, ``naive`` and ``linear`` act.
        method: 0 ``naive``, 1 ``linear``, 2 ``gaussian`` (of width ``sigma``).

    Returns:
        int64 indices of the K kept boxes, on the CPU.
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
        iou = _compute_overlaps(boxes[best], boxes[left], offset=offset)
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
        dets: (N, 5), boxes and scores, on the CPU.
        iou_threshold: Unlike in :func:`nms`, it suppresses at exactly this.

    Returns:
        One list of indices per kept box, that box first.
    """
    dets, = _widen(dets)
    left = dets[:, 4].argsort(descending=True)
    groups = []
    while len(left):
        iou = _compute_overlaps(dets[left[0], :4], dets[left[1:], :4])
        matched = iou >= iou_threshold
        groups.append([int(left[0]), *left[1:][matched].tolist()])
        left = left[1:][~matched]
    return groups


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """Fill ``ious``, (M, N) or (M, ) if ``aligned``, with overlaps of boxes.

    Args:
        mode: 0 over the union, 1 over the area of ``bboxes1``.
        aligned: Pair by pair instead of all pairs.
    """
    bboxes1, bboxes2 = _widen(bboxes1, bboxes2)
    if not aligned:
        bboxes1 = bboxes1[:, None]
    ious.copy_(_compute_overlaps(bboxes1, bboxes2, mode == 1, offset))


# ---------------------------------------------------------------- pooling
def roi_align_forward(input, rois, output, argmax_y, argmax_x,
                      aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    """Fill ``output`` with bilinear averages over the bins of each box.

    Args:
        input: (N, C, H, W).
        rois: (K, 5), index into N and x1, y1, x2, y2 in image pixels.
        output: (K, C, aligned_height, aligned_width).
        spatial_scale: From image to ``input`` pixels.
        sampling_ratio: Points per bin and axis; 0 takes the bin's size,
            rounded up.
        pool_mode: 1, the average; 0, the maximum, is not implemented.
        aligned: Whether pixel centers lie at half integers.
    """
    if pool_mode != 1:
        _create_stand_in("roi_align (pool_mode='max')")()
    output.copy_(
        torch.ops.torchvision.roi_align(*_widen(input, rois), spatial_scale,
                                        aligned_height, aligned_width,
                                        sampling_ratio, aligned))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input,
                       aligned_height, aligned_width, spatial_scale,
                       sampling_ratio, pool_mode, aligned):
    """Fill ``grad_input``."""
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            *_widen(grad_output, rois), spatial_scale, aligned_height,
            aligned_width, *grad_input.shape, sampling_ratio, aligned))


# ----------------------------------------------------------------- losses
def _compute_sigmoid_focal_terms(input, target, weight, gamma, alpha):
    """Return scale * (1 - p)^gamma, 1 - p, log p and the sign of z.

    With z the logit, negated where the class is not the target, and
    p = sigmoid(z), the loss is -scale (1 - p)^gamma log p, (N, C).
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
        input: (N, C), logits.
        target: (N, ), int64 class; others than 0..C-1 are background.
        weight: (C, ) factor per target class, or empty.
        output: (N, C).
        alpha: Factor of the positives; 1 - alpha is that of the negatives.
    """
    focus, _, log_p, _ = _compute_sigmoid_focal_terms(
        input, target, weight, gamma, alpha)
    output.copy_(-focus * log_p)


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma,
                                alpha):
    """Fill ``grad_input``, (N, C)."""
    focus, rest, log_p, sign = _compute_sigmoid_focal_terms(
        input, target, weight, gamma, alpha)
    grad_input.copy_(-sign * focus * (rest - gamma * (1 - rest) * log_p))


def _compute_softmax_focal_terms(softmax, target, weight):
    """Return probability and factor of the targets, (N, 1) each."""
    softmax, = _widen(softmax)
    label = target[:, None].clamp(min=0)
    scale = (target[:, None] >= 0).to(softmax)
    if weight.numel():
        scale = scale * weight[label]
    return softmax.gather(1, label).clamp(min=_TINY), scale


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Fill ``output`` with the focal loss of exclusive classes.

    Args:
        input: (N, C), probabilities (the softmax).
        target: (N, ), int64 class; a negative one has no loss.
        weight: (C, ) factor per target class, or empty.
        output: (N, ).
    """
    p, scale = _compute_softmax_focal_terms(input, target, weight)
    loss = -alpha * scale * (1 - p)**gamma * p.log()
    output.copy_(loss[:, 0])


def softmax_focal_loss_backward(input, target, weight, buff, grad_input,
                                gamma, alpha):
    """Fill ``grad_input``, (N, C), with respect to the logits."""
    p, scale = _compute_softmax_focal_terms(input, target, weight)
    rest = 1 - p
    slope = gamma * rest.clamp(min=_TINY)**(gamma - 1)
    outer = alpha * scale * (slope * p * p.log() - rest**gamma)
    hot = F.one_hot(target.clamp(min=0), input.size(1))
    grad_input.copy_(outer * (hot - input))


# --------------------------------------------------- deformable convolution
# Inputs are (N, C, H, W), outputs (N, C_out, H_out, W_out), weights
# (C_out, C / group, kH, kW). Offsets are (N, deformable_group * kH * kW * 2,
# H_out, W_out), y before x, in pixels of the input; factors (the mask) have
# half as many channels. A geometry is stride, padding and dilation (y before
# x each), groups of the convolution and groups of the offsets. ``columns``,
# ``ones`` and ``im2col_step`` serve mmcv's own kernels and are unused.
def _prepare_operands(input, weight, offset, mask=None, bias=None):
    """Return torchvision's tensor arguments, in its order and type."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return [t.contiguous() for t in _widen(input, weight, offset, mask, bias)]


def _compute_deform_grads(grad_output, operands, geometry, use_mask):
    """Return the gradients of input, weight, offset, mask and bias."""
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output.to(operands[0]), *operands, *geometry, use_mask)


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH,
                        dW, dH, padW, padH, dilationW, dilationH, group,
                        deformable_group, im2col_step):
    """Fill ``output`` with the deformable convolution (DCN v1)."""
    output.copy_(
        torch.ops.torchvision.deform_conv2d(
            *_prepare_operands(input, weight, offset), dH, dW, padH, padW,
            dilationH, dilationW, group, deformable_group, False))


def deform_conv_backward_input(input, offset, grad_output, grad_input,
                               grad_offset, weight, columns, kW, kH, dW, dH,
                               padW, padH, dilationW, dilationH, group,
                               deformable_group, im2col_step):
    """Fill ``grad_input`` and ``grad_offset``."""
    grads = _compute_deform_grads(
        grad_output, _prepare_operands(input, weight, offset),
        (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group),
        use_mask=False)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight,
                                    columns, ones, kW, kH, dW, dH, padW,
                                    padH, dilationW, dilationH, group,
                                    deformable_group, scale, im2col_step):
    """Add ``scale`` times the gradient to ``grad_weight``."""
    # The gradient of the weight does not depend on its value.
    weight = torch.zeros_like(grad_weight)
    grads = _compute_deform_grads(
        grad_output, _prepare_operands(input, weight, offset),
        (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group),
        use_mask=False)
    grad_weight.add_(grads[1].to(grad_weight), alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask,
                                  output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w,
                                  dilation_h, dilation_w, group,
                                  deformable_group, with_bias):
    """Fill ``output`` with the modulated convolution (DCN v2)."""
    operands = _prepare_operands(input, weight, offset, mask,
                                 bias if with_bias else None)
    output.copy_(
        torch.ops.torchvision.deform_conv2d(
            *operands, stride_h, stride_w, pad_h, pad_w, dilation_h,
            dilation_w, group, deformable_group, True))


def modulated_deform_conv_backward(
        input, weight, bias, ones, offset, mask, columns, grad_input,
        grad_weight, grad_bias, grad_offset, grad_mask, grad_output, kernel_h,
        kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, deformable_group, with_bias):
    """Fill the five gradients, ``grad_bias`` only if ``with_bias``."""
    operands = _prepare_operands(input, weight, offset, mask,
                                 bias if with_bias else None)
    grads = _compute_deform_grads(
        grad_output, operands,
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
         deformable_group), use_mask=True)
    filled = [grad_input, grad_weight, grad_offset, grad_mask]
    if with_bias:
        filled.append(grad_bias)
    for tensor, grad in zip(filled, grads):
        tensor.copy_(grad)


# ------------------------------------------------------------ about itself
def get_compiler_version():
    """Return whose kernels are in use, where mmcv names its compiler."""
    return f'none, kernels of torchvision {torchvision.__version__}'


def get_compiling_cuda_version():
    """Return torch's CUDA version, which torchvision shares."""
    return torch.version.cuda or 'not available'


@functools.cache
def _create_stand_in(name):
    """Create an operator that raises when called, not when imported."""

    def operator(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv's operator '{name}' is not among those that vovnet.ops "
            'takes from torchvision; install compiled mmcv instead of '
            'mmcv-lite (MMCV_WITH_OPS=1 pip install --no-build-isolation '
            'mmcv==2.1.0; see docs/install.md)')

    operator.__name__ = operator.__qualname__ = name
    operator.__doc__ = f"Raise: mmcv's compiled '{name}' is missing."
    return operator


def __getattr__(name):
    # Python's own questions (__path__, __wrapped__, ...) get a true answer.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return _create_stand_in(name)
