"""Focal losses against Lin et al. (2017), equation 5, class by class."""
import math

import numpy as np
import pytest
import torch
from mmcv.ops import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

TARGET = [0, 2, 1, 3, 2, 3]  # 3 is the background of 3 classes


def logits(device, dtype=torch.float64):
    return 3 * torch.randn(len(TARGET), 3, dtype=dtype, device=device)


def loop_sigmoid(x, target, gamma, alpha, weight):
    out = np.zeros(x.shape)
    for n, c in np.ndindex(x.shape):
        p = 1 / (1 + math.exp(-x[n, c]))
        if target[n] == c:
            out[n, c] = -alpha * (1 - p)**gamma * math.log(p)
        else:
            out[n, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
        out[n, c] *= weight[target[n]]
    return out


def loop_softmax(x, target, gamma, alpha, weight):
    out = np.zeros(len(x))
    for n, t in enumerate(target):
        p = math.exp(x[n, t]) / sum(math.exp(v) for v in x[n])
        out[n] = -alpha * weight[t] * (1 - p)**gamma * math.log(p)
    return out


REDUCE = dict(
    none=lambda loss: loss,
    sum=lambda loss: loss.sum(),
    mean=lambda loss: loss.sum() / len(loss))


@pytest.mark.parametrize('reduction', REDUCE)
@pytest.mark.parametrize('gamma,alpha', [(2., .25), (1.5, .6), (0., .5)])
def test_sigmoid(device, gamma, alpha, reduction):
    x, target = logits(device), torch.tensor(TARGET, device=device)
    loss = SigmoidFocalLoss(gamma, alpha, reduction=reduction)(x, target)
    expected = loop_sigmoid(x.cpu().numpy(), TARGET, gamma, alpha, [1] * 4)
    np.testing.assert_allclose(
        loss.cpu(), REDUCE[reduction](expected), rtol=1e-6)


def test_sigmoid_class_weights(device):
    x = logits(device)[:3]
    weight = torch.tensor([.5, 1., 3.], dtype=x.dtype, device=device)
    target = torch.tensor([0, 2, 1], device=device)
    loss = sigmoid_focal_loss(x, target, 2., .25, weight, 'none')
    expected = loop_sigmoid(x.cpu().numpy(), [0, 2, 1], 2, .25, [.5, 1, 3])
    np.testing.assert_allclose(loss.cpu(), expected, rtol=1e-6)


def test_sigmoid_weights_leave_the_background(device, only_torchvision):
    x, target = logits(device), torch.tensor(TARGET, device=device)
    weight = torch.tensor([.5, 2., 3.], dtype=x.dtype, device=device)
    loss = sigmoid_focal_loss(x, target, 2., .25, weight, 'none')
    expected = loop_sigmoid(x.cpu().numpy(), TARGET, 2, .25, [.5, 2, 3, 1])
    np.testing.assert_allclose(loss.cpu(), expected, rtol=1e-6)


@pytest.mark.parametrize('reduction', REDUCE)
@pytest.mark.parametrize('gamma,alpha', [(2., .25), (1.5, .6), (0., .5)])
def test_sigmoid_gradient(device, gamma, alpha, reduction):
    target = torch.tensor(TARGET, device=device)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, target, gamma, alpha, None, reduction
                                     ),
        logits(device).requires_grad_())


def test_sigmoid_equals_mmdet(device):
    """mmdet's own loss in Python, the one it uses on the CPU."""
    x, target = logits(device), torch.tensor(TARGET, device=device)
    hot = torch.nn.functional.one_hot(target, 4)[:, :3]
    torch.testing.assert_close(
        sigmoid_focal_loss(x, target, 2., .25, None, 'none'),
        py_sigmoid_focal_loss(x, hot, gamma=2., alpha=.25, reduction='none'))


def test_sigmoid_far_from_the_target(device):
    x = torch.tensor([[-60.]], device=device, requires_grad=True)
    target = torch.tensor([0], device=device)
    loss = sigmoid_focal_loss(x, target, 2., .25, None, 'sum')
    loss.backward()  # log p is x, and 1 - p is one
    assert loss.item() == pytest.approx(.25 * 60)
    assert x.grad.item() == pytest.approx(-.25)


def test_sigmoid_short_types(device, short_type):
    x = logits(device, short_type).requires_grad_()
    target = torch.tensor(TARGET, device=device)
    loss = sigmoid_focal_loss(x, target, 2., .25, None, 'none')
    loss.sum().backward()
    assert loss.dtype == x.grad.dtype == short_type
    expected = loop_sigmoid(x.detach().double().cpu().numpy(), TARGET, 2, .25,
                            [1] * 4)
    eps = torch.finfo(short_type).eps
    np.testing.assert_allclose(
        loss.detach().double().cpu(), expected, rtol=4 * eps, atol=4 * eps)


def test_sigmoid_of_nothing(device):
    x = torch.empty(0, 3, device=device, requires_grad=True)
    target = torch.empty(0, dtype=torch.long, device=device)
    sigmoid_focal_loss(x, target, 2., .25, None, 'sum').backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize('reduction', REDUCE)
@pytest.mark.parametrize('weight', [None, [.5, 1., 3.]])
def test_softmax(device, weight, reduction):
    x, target = logits(device), torch.tensor(TARGET, device=device) % 3
    if weight:
        weight = torch.tensor(weight, dtype=x.dtype, device=device)
    layer = SoftmaxFocalLoss(2., .25, weight, reduction)
    expected = loop_softmax(x.cpu().numpy(), target.tolist(), 2, .25,
                            [1] * 3 if weight is None else weight.tolist())
    np.testing.assert_allclose(
        layer(x, target).cpu(), REDUCE[reduction](expected), rtol=1e-6)


def test_softmax_gradient(device):
    target = torch.tensor(TARGET, device=device) % 3
    weight = torch.tensor([.5, 1., 3.], dtype=torch.float64, device=device)
    for gamma in (2., 1.5, 0.):
        assert torch.autograd.gradcheck(
            lambda x, gamma=gamma: softmax_focal_loss(
                x, target, gamma, .25, weight, 'mean'),
            logits(device).requires_grad_())


def test_softmax_ignores_negative_labels(device):
    x = logits(device).requires_grad_()
    target = torch.tensor(TARGET, device=device) % 3
    target[1] = -1
    loss = softmax_focal_loss(x, target, 2., .25, None, 'sum')
    loss.backward()
    rows = [0, 2, 3, 4, 5]
    expected = loop_softmax(x.detach()[rows].cpu().numpy(),
                            target[rows].tolist(), 2, .25, [1] * 3)
    assert loss.item() == pytest.approx(expected.sum(), rel=1e-6)
    assert not x.grad[1].any() and x.grad[rows].all()
