"""The networks of the CIFAR study compute what their papers say."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

from vovnet.models import CIFARNet, cifar_arch_settings


@pytest.fixture(params=cifar_arch_settings)
def network(request):
    """With norms that do something."""
    torch.manual_seed(0)
    network = CIFARNet(request.param)
    network.init_weights()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def reference(network, x):
    """Both architectures as functions of their layers, in order."""
    convs = iter([m for m in network.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in network.modules()
                  if isinstance(m, nn.BatchNorm2d)])
    num_layers, _, dense = cifar_arch_settings[network.arch]

    def conv(x):
        weight = next(convs).weight
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def norm_relu(x):
        m = next(norms)
        return F.relu(F.batch_norm(x, m.running_mean, m.running_var,
                                   m.weight, m.bias))

    x = conv(x) if dense else norm_relu(conv(x))
    for block in range(3):
        features = [x]
        for _ in range(num_layers):
            features.append(conv(norm_relu(torch.cat(features, 1))) if dense
                            else norm_relu(conv(features[-1])))
        x = torch.cat(features, 1)
        if dense:
            x = norm_relu(x)
            x = conv(x) if block < 2 else x
        else:
            x = norm_relu(conv(x))
        x = F.avg_pool2d(x, 2) if block < 2 else x
    assert next(convs, None) is None and next(norms, None) is None
    return x


def test_computes_what_the_papers_say(network):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out, = network(images)
        expected = reference(network, images)
    width = {'DenseNet-40': 16 + 36 * 12, 'OSA-12/20': 16 + 36 * 20,
             'OSA-5/43': 16 + 15 * 43}[network.arch]
    assert out.shape == (2, width, 8, 8)
    assert network.out_channels == (width, ) and network.strides == (4, )
    assert torch.allclose(out, expected, atol=1e-5 * expected.abs().max())


def test_initialisation_is_densenets(network):
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convs)
    for conv in convs:
        variance = 2 / (conv.kernel_size[0]**2 * conv.out_channels)
        # Five standard errors of a variance of that many samples.
        spread = 5 * (2 / conv.weight.numel())**0.5
        assert conv.weight.var().item() == pytest.approx(
            variance, rel=spread)


@pytest.mark.parametrize('arch', cifar_arch_settings)
def test_trains_in_mmpretrain(arch):
    from mmpretrain.structures import DataSample

    # Other tests of the process may have left mmdet's scope.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='CIFARNet', arch=arch),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10,
                      in_channels=CIFARNet(arch).out_channels[0],
                      loss=dict(type='CrossEntropyLoss'))))
    assert isinstance(model.backbone, ROOT_MODELS.get('CIFARNet'))
    model.init_weights()
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    loss = model(torch.randn(2, 3, 32, 32), samples, mode='loss')['loss']
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in model.parameters())


def test_unknown_arch():
    with pytest.raises(ValueError, match="'OSA-5/44' is not one of .*5/43"):
        CIFARNet('OSA-5/44')
