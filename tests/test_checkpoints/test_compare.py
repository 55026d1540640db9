"""How a checkpoint and a model are compared."""
import pytest
import torch
from torch import nn

from vovnet.checkpoints import (
    export_weights,
    get_state_dict,
    match_weights,
    parse_checkpoint,
)
from vovnet.models import VoVNet
from vovnet.utils.errors import UserError


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_model_fits_itself(model):
    found = match_weights(model, model.state_dict())
    assert found.complete and found.loaded == list(model.state_dict())


def test_what_differs_is_named(model):
    weights = model.state_dict()
    del weights['0.bias']
    weights['1.weight'] = torch.ones(7)
    weights['2.weight'] = torch.ones(1)
    found = match_weights(model, weights)
    assert not found.complete
    assert found.missing == ['0.bias']
    assert found.unexpected == ['2.weight']
    assert found.reshaped == ['1.weight']
    assert str(found) == (
        '5 tensors loaded, 1 missing: 0.bias; 1 unexpected: 2.weight; '
        '1 of another shape: 1.weight')


def test_batches_of_batch_norm_are_not_missed(model):
    weights = model.state_dict()
    del weights['1.num_batches_tracked']
    assert match_weights(model, weights).complete


def test_three_names_are_enough(model):
    assert '6 missing: 0.weight, 0.bias, 1.weight and 3 more' in str(
        match_weights(model, {}))


def test_weights_are_found(model):
    weights = model.state_dict()
    for checkpoint in (weights, dict(state_dict=weights, meta={}),
                       {f'module.{k}': v for k, v in weights.items()}):
        found = get_state_dict(checkpoint)
        assert list(found) == list(weights)
        assert all(found[k] is weights[k] for k in weights)


@pytest.mark.parametrize('checkpoint', [
    dict(epoch=1), dict(state_dict={}), torch.ones(2), dict(state_dict=3)])
def test_no_weights(checkpoint):
    with pytest.raises(UserError, match='a.pth: no weights'):
        get_state_dict(checkpoint, 'a.pth')


def test_weights_that_only_a_backbone_takes():
    """Where MMEngine does not look, or behind another library's prefix."""
    weights = VoVNet('V2-19-slim-dw').state_dict()
    theirs = export_weights(parse_checkpoint(weights, 'a'), 'authors',
                       'backbone.bottom_up.')
    with pytest.raises(UserError, match=(
            r"a.pth: no weights .* \(it holds: model\); to start from the "
            r"VoVNet that it holds behind 'backbone.bottom_up.', give it to "
            r'the backbone as init_cfg=')):
        get_state_dict(dict(model=theirs), 'a.pth')


def test_gates_that_are_added_are_not_missed():
    """timm has eSE in last blocks only; loading opens the others' gates."""
    model = nn.ModuleDict(dict(backbone=VoVNet('V2-39')))
    weights = VoVNet('V2-39', ese='last').state_dict()
    timm = export_weights(parse_checkpoint(weights, 'a'), 'timm', 'backbone.')
    found = match_weights(model, {**timm, 'head.fc.weight': torch.ones(1)})
    assert not found.missing and not found.reshaped
    assert found.unexpected == ['head.fc.weight']
    assert len(found.loaded) == len(model.state_dict())
    missed = match_weights(model, {k: v for k, v in timm.items()
                           if 'stages.3.blocks.0.conv_mid.4.bn.bias' not in k})
    assert missed.missing == ['backbone.stage5.block1.layers.4.bn.bias']
