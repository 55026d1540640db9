"""What is written: tensors alone, whole, and in the plainest order."""
import os
import re

import foreign
import pytest
import torch
from foreign import NETS, random_weights
from torch import nn

from vovnet.checkpoints import convert, load_file, publish, read_weights
from vovnet.checkpoints.publish import save_weights
from vovnet.utils.errors import UserError

NET = NETS['tiny']


@pytest.fixture
def state():
    torch.manual_seed(0)
    return random_weights(NET, foreign.AUTHORS)


def within_one(state):
    """The same tensors as parts of one large storage."""
    whole = torch.zeros(2_000_000)
    out, end = {}, 0
    for key, value in state.items():
        if value.is_floating_point():
            part = whole[end:end + value.numel()].view(value.shape)
            end += value.numel()
            value = part.copy_(value)
        out[key] = value
    return out


def channels_last(state):
    return {key: value.contiguous(memory_format=torch.channels_last)
            if value.ndim == 4 else value for key, value in state.items()}


def trained(state):
    return {key: nn.Parameter(value) if value.is_floating_point() else value
            for key, value in state.items()}


def written_by_publish(state, folder):
    torch.save(dict(meta=dict(epoch=1), state_dict=state), folder / 'a.pth')
    return publish(str(folder / 'a.pth'), str(folder / 'b.pth'))


def written_by_convert(state, folder):
    torch.save(state, folder / 'a.pth')
    convert(str(folder / 'a.pth'), str(folder / 'b.pth'), 'authors')
    return str(folder / 'b.pth')


def written_with_meta(state, folder):
    save_weights(state, str(folder / 'b.pth'), dict(epoch=1))
    return str(folder / 'b.pth')


def written_as_safetensors(state, folder):
    save_weights(state, str(folder / 'b.safetensors'))
    return str(folder / 'b.safetensors')


@pytest.mark.parametrize('change', [within_one, channels_last, trained])
@pytest.mark.parametrize('write', [
    written_by_publish, written_by_convert, written_with_meta,
    written_as_safetensors])
def test_tensors_are_written_without_their_past(write, change, state,
                                                tmp_path):
    """As parts of others, in other orders of memory, or with gradients."""
    path = write(change(state), tmp_path)
    found = load_file(path)
    found = found.get('state_dict', found)
    assert found.keys() == state.keys()
    for key, value in found.items():
        assert torch.equal(value, state[key])
        assert value.is_contiguous() and not value.requires_grad
        assert type(value) is torch.Tensor
    numbers = sum(value.nbytes for value in state.values())
    # Names, and where each tensor begins.
    assert os.path.getsize(path) < numbers + 600 * len(state)


def test_what_was_only_a_part_is_the_same_file(state, tmp_path):
    """The digits in a published name are of the tensors, not of the memory."""
    names = set()
    for change in (dict, within_one, channels_last, trained):
        folder = tmp_path / change.__name__
        folder.mkdir()
        names.add(os.path.basename(written_by_publish(change(state), folder)))
    assert len(names) == 1


@pytest.mark.parametrize('target, written', [
    ('v.pth', r'v-[0-9a-f]{8}\.pth'), ('v.pt', r'v-[0-9a-f]{8}\.pt'),
    ('v', r'v-[0-9a-f]{8}\.pth'), ('v.1', r'v\.1-[0-9a-f]{8}\.pth')])
def test_names_of_published_files(target, written, state, tmp_path):
    torch.save(state, tmp_path / 'a.pth')
    path = publish(str(tmp_path / 'a.pth'), str(tmp_path / target))
    assert re.fullmatch(written, os.path.basename(path))
    assert os.path.isfile(path)


@pytest.mark.parametrize('target', ['give/', 'give'])
def test_a_folder_is_no_file(target, state, tmp_path):
    torch.save(state, tmp_path / 'a.pth')
    (tmp_path / 'give').mkdir()
    with pytest.raises(UserError, match=f'{target}: is a folder; name a file'):
        publish(str(tmp_path / 'a.pth'), f'{tmp_path}/{target}')
    assert not list((tmp_path / 'give').iterdir())
    assert len(list(tmp_path.iterdir())) == 2


def test_own_names_say_what_the_weights_assume(state, tmp_path):
    torch.save(state, tmp_path / 'a.pth')
    theirs, _ = convert(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))
    ours = read_weights(str(tmp_path / 'b.pth'))
    assert ours.scheme == 'mmengine'
    assert (ours.variant, ours.arch) == (theirs.variant, theirs.arch)
    assert load_file(str(tmp_path / 'b.pth'))['meta'] == dict(
        arch=theirs.arch, source='a.pth', scheme='authors')
