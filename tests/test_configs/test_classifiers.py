"""The classifiers' configs: parse, build, learn, and state their recipe."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import vovnet  # noqa: F401

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = [str(f.relative_to(CONFIGS)) for f in sorted(CONFIGS.glob('cifar/*'))]


@pytest.fixture(params=NAMES)
def cfg(request):
    return Config.fromfile(str(CONFIGS / request.param))


def test_config_is_complete(cfg):
    assert cfg.default_scope == 'mmpretrain'
    assert cfg.custom_imports.imports == ['vovnet']
    # DenseNet's recipe: 64 images in all; 300 epochs, steps at 1/2 and 3/4.
    assert cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.train_dataloader.batch_size * 8 == 64
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.param_scheduler.milestones == [150, 225]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum,
            optimizer.weight_decay, optimizer.nesterov) == (
                'SGD', 0.1, 0.9, 1e-4, True)


def test_classifier_learns(cfg):
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(cfg.model)
    batch = dict(
        inputs=[torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
                for _ in range(4)],
        data_samples=[DataSample().set_gt_label(i) for i in range(4)])
    rate, losses = 0.02, []
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9)
    for _ in range(4):
        data = model.data_preprocessor(batch, training=True)
        loss = model(**data, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in model.parameters())
    assert losses[-1] < 0.8 * losses[0]
    model.eval()
    with torch.inference_mode():
        found = model.test_step(batch)
    assert all(one.pred_score.shape == (10, ) for one in found)
