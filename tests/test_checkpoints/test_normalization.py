"""Images that are normalized otherwise than the weights want are refused."""
import foreign
import pytest
import torch
from foreign import NETS, assert_close, random_weights
from mmdet.models import DetDataPreprocessor
from mmengine.model import BaseModel
from mmpretrain.models import ClsDataPreprocessor

from vovnet.checkpoints import (
    Normalization,
    check_normalization,
    record_normalization,
)
from vovnet.models import VoVNet
from vovnet.utils.errors import UserError

NET = NETS['19-slim-dw']
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
RGB = dict(mean=MEAN, std=STD, bgr_to_rgb=True)
BGR = dict(mean=MEAN[::-1], std=STD[::-1], bgr_to_rgb=False)
D2 = dict(BGR, std=[1., 1., 1.])
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)


@pytest.fixture(scope='module')
def timm(tmp_path_factory):
    """A file of timm's, which wants RGB and ImageNet's mean and std."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'a.pth'
    torch.save(random_weights(NET, foreign.TIMM), path)
    return str(path)


class Model(BaseModel):
    """A backbone and what normalizes its images."""

    def __init__(self, preprocessor, name='backbone', **init):
        super().__init__(preprocessor)
        self.name = name
        self.add_module(name, VoVNet('V2-19-slim-dw', init_cfg=init and dict(
            type='Pretrained', **init)))
        if init:
            self.init_weights()

    def forward(self, inputs):
        return getattr(self, self.name)(inputs)


def build(given, path, kind=DetDataPreprocessor, **init):
    return Model(kind(**given), checkpoint=path, **init)


def refusal(model):
    with pytest.raises(UserError) as error:
        check_normalization(model)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('given', [
    RGB,
    # Others' constants of ImageNet: Caffe's, maskrcnn-benchmark's, rounded.
    dict(RGB, mean=[123., 117., 104.]),
    dict(RGB, mean=[122.7717, 115.9465, 102.9801]),
    dict(RGB, std=[58.4, 57.1, 57.4])])
def test_images_as_the_weights_want_them(given, timm):
    check_normalization(build(given, timm))


@pytest.mark.parametrize('given', [
    BGR, D2, HALF, dict(RGB, std=[1., 1., 1.]), dict(RGB, mean=[0.] * 3),
    dict(RGB, mean=[125.307, 122.961, 113.8575]),  # CIFAR-10's
    dict(RGB, std=[57.] * 3)])
def test_other_images_and_both_remedies(given, timm):
    """What the refusal says to do is enough."""
    text = refusal(build(given, timm))
    wanted, has = (str(Normalization.from_config(c)) for c in (RGB, given))
    assert text.startswith(f'VoVNet: {timm}: expects {wanted}, the model has '
                           f'{has}; set the former in the model, or ')
    advice = text.partition('; set ')[2]
    if sorted(given['mean']) == sorted(MEAN):
        fold = advice.partition('init_cfg=dict(..., ')[2].partition('); more')
        init = eval(f'dict({fold[0]})')
        model = build(given, timm, **init)
        check_normalization(model)
        assert_computes(model, timm)
    else:
        assert 'another mean cannot be folded' in advice
    right = eval(f'dict({wanted})')['data_preprocessor']
    check_normalization(build(right, timm))
    check_normalization(build(given, timm, trained_with=given))
    assert advice.endswith('; more in docs/weights.md')


def assert_computes(model, path):
    """From pixels on, what timm's network would compute."""
    pixels = torch.randint(0, 256, (3, 64, 64)).float()
    images = model.data_preprocessor(dict(inputs=[pixels]))['inputs']
    theirs = (pixels.flip(0) - torch.tensor(MEAN)[:, None, None]) \
        / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        got = model.eval()(images)
        want = foreign.evaluate(
            torch.load(path), NET, foreign.TIMM, theirs[None])
    assert_close(got, want)


def test_folding_for_another_model(timm):
    text = refusal(build(BGR, timm, data_preprocessor=D2))
    assert f'expects {Normalization.from_config(D2)}' in text


def test_classifiers_have_another_word(timm):
    """mmpretrain says to_rgb."""
    rgb, bgr = (dict(mean=c['mean'], std=c['std'], to_rgb=c['bgr_to_rgb'])
                for c in (RGB, BGR))
    check_normalization(build(rgb, timm, ClsDataPreprocessor))
    text = refusal(build(bgr, timm, ClsDataPreprocessor))
    assert 'to_rgb=True' in text and 'bgr_to_rgb' not in text
    check_normalization(build(
        bgr, timm, ClsDataPreprocessor, data_preprocessor=bgr))


def test_what_is_not_known_is_not_refused(timm, tmp_path):
    theirs = random_weights(NET, foreign.AUTHORS)
    torch.save(theirs, tmp_path / 'a.pth')
    check_normalization(build(D2, str(tmp_path / 'a.pth')))
    # A pipeline normalizes, or nothing is loaded.
    check_normalization(Model(DetDataPreprocessor(), checkpoint=timm))
    check_normalization(Model(DetDataPreprocessor(**D2)))


def expected_by(model):
    return model.backbone.weight_source.normalization


def test_what_is_trained_wants_what_it_is_trained_on(timm):
    model = build(D2, timm)
    record_normalization(model)
    check_normalization(model)
    assert expected_by(model) == Normalization.from_config(D2)
    # Nobody knows which of two.
    model = build(RGB, timm)
    model.other = DetDataPreprocessor(**D2)
    record_normalization(model)
    assert expected_by(model) == Normalization.from_config(RGB)
    # A pipeline normalizes.
    model = Model(DetDataPreprocessor(), checkpoint=timm)
    record_normalization(model)
    assert expected_by(model) == Normalization.from_config(RGB)


def test_weights_that_stay_want_what_they_wanted(timm):
    """A checkpoint of a neck alone, loaded after them."""
    model = build(BGR, timm)
    model.load_state_dict({'neck.weight': torch.ones(1)}, strict=False)
    assert f'expects {Normalization.from_config(RGB)}' in refusal(model)


def test_whole_checkpoints_count_too():
    """``load_from`` of a detector of mmdet3d, and of one's own after it."""
    theirs = {f'img_backbone.{k}': v for k, v in random_weights(
        NET, foreign.AUTHORS).items()}
    model = Model(DetDataPreprocessor(**RGB), 'img_backbone')
    own = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(theirs)
    assert f'expects {Normalization.from_config(BGR)}' in refusal(model)
    model.load_state_dict(own)
    check_normalization(model)
    model = Model(DetDataPreprocessor(**BGR), 'img_backbone')
    model.load_state_dict(theirs)
    check_normalization(model)
