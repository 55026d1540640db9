"""RoIAlign against a loop over its sampling points (Mask R-CNN, section 3).

Coordinates beyond the border by up to one pixel read the border, further
out they read zero, as mmcv and detectron2 have it.
"""
import math

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign
from torch import nn

ROIS = [
    [0, 2.0, 3.0, 21.0, 14.0],
    [1, 0.5, 0.25, 40.0, 31.0],  # all of the image and more
    [1, -9.0, -3.0, 6.0, 5.0],  # over the top left
    [0, 30.0, 20.0, 30.5, 20.25],  # within a pixel
    [0, 12.0, 9.0, 12.0, 9.0],  # a point
]
SCALE = 0.25  # the map has a quarter of the image's pixels


def bilinear(plane, y, x):
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.
    y, x = (min(max(c, 0), size - 1) for c, size in ((y, height), (x, width)))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    return ((1 - y) * ((1 - x) * plane[top, left] + x * plane[top, right]) +
            y * ((1 - x) * plane[bottom, left] + x * plane[bottom, right]))


def loop_roi_align(maps, rois, size, sampling_ratio, aligned, pool=np.mean):
    out = np.zeros((len(rois), maps.shape[1], *size))
    for k, (index, *roi) in enumerate(rois):
        x1, y1, x2, y2 = (c * SCALE - 0.5 * aligned for c in roi)
        least = 0 if aligned else 1
        bin_h = max(y2 - y1, least) / size[0]
        bin_w = max(x2 - x1, least) / size[1]
        rows = sampling_ratio or math.ceil(bin_h)
        cols = sampling_ratio or math.ceil(bin_w)
        for c, ph, pw in np.ndindex(out.shape[1:]):
            points = [
                bilinear(maps[int(index), c],
                         y1 + (ph + (i + 0.5) / rows) * bin_h,
                         x1 + (pw + (j + 0.5) / cols) * bin_w)
                for i in range(rows) for j in range(cols)
            ]
            out[k, c, ph, pw] = pool(points) if points else 0
    return out


def inputs(device, dtype=torch.float64):
    maps = torch.rand(2, 3, 8, 11, dtype=dtype, device=device)
    return maps, torch.tensor(ROIS, dtype=dtype, device=device)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2])
@pytest.mark.parametrize('size', [(2, 2), (3, 1)])
def test_is_the_mean_of_its_points(device, size, sampling_ratio, aligned):
    maps, rois = inputs(device)
    out = RoIAlign(size, SCALE, sampling_ratio, aligned=aligned)(maps, rois)
    expected = loop_roi_align(maps.cpu().numpy(), ROIS, size, sampling_ratio,
                              aligned)
    np.testing.assert_allclose(out.cpu(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_gradient(device, sampling_ratio, aligned):
    maps, rois = inputs(device)
    layer = RoIAlign((2, 3), SCALE, sampling_ratio, aligned=aligned)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois),
                                    maps.requires_grad_())


def test_gradient_of_a_view(device):
    """A head that transposes hands back gradients out of order."""
    maps, rois = inputs(device)
    layer = RoIAlign((2, 3), SCALE, 2)
    assert torch.autograd.gradcheck(
        lambda x: layer(x, rois).permute(0, 3, 1, 2).flatten(1),
        maps.requires_grad_())


def test_short_types(device, short_type):
    maps, rois = inputs(device, short_type)
    maps.requires_grad_()
    out = RoIAlign((2, 2), SCALE, 2)(maps, rois)
    out.sum().backward()
    assert out.dtype == maps.grad.dtype == short_type
    eps = torch.finfo(short_type).eps
    expected = loop_roi_align(maps.detach().double().cpu().numpy(), ROIS,
                              (2, 2), 2, True)
    np.testing.assert_allclose(
        out.detach().double().cpu(), expected, atol=4 * eps)
    # A mean of points inside the map hands its whole gradient on: here,
    # RoIs 0, 3 and 4 of image 0, with 2 x 2 bins each.
    np.testing.assert_allclose(
        maps.grad[0].double().sum((1, 2)).cpu(), 12, rtol=4 * eps)


def test_no_rois(device):
    maps, rois = inputs(device)
    out = RoIAlign((2, 2), SCALE, 0)(maps.requires_grad_(), rois[:0])
    assert out.shape == (0, 3, 2, 2)
    out.sum().backward()
    assert not maps.grad.any() and maps.grad.shape == maps.shape


def test_autocast(device, short_type):
    """Features come in the short type, and gradients go back through it."""
    maps, rois = inputs(device, torch.float32)
    conv = nn.Conv2d(3, 4, 1).to(device)
    layer = RoIAlign((2, 2), SCALE, 2)
    grads = []
    for enabled in (True, False):
        conv.zero_grad()
        with torch.autocast(device, short_type, enabled=enabled):
            features = conv(maps)
            out = layer(features, rois.type_as(features))
            assert out.dtype == (short_type if enabled else torch.float32)
            loss = out.float().square().mean()
        loss.backward()
        grads.append(conv.weight.grad.clone())
    assert grads[1].abs().max() > 0.01
    torch.testing.assert_close(*grads, rtol=0.05, atol=0.005)


def test_maximum(device):
    maps, rois = inputs(device)
    layer = RoIAlign((2, 2), SCALE, 2, pool_mode='max')
    try:
        out = layer(maps, rois)
    except NotImplementedError as error:  # torchvision has no such mode
        assert "roi_align (pool_mode='max')" in str(error)
    else:
        expected = loop_roi_align(maps.cpu().numpy(), ROIS, (2, 2), 2, True,
                                  np.max)
        np.testing.assert_allclose(out.cpu(), expected, rtol=1e-6)
