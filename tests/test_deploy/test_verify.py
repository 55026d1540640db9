"""The comparison of an exported detector with its model."""
import cv2
import numpy as np
import pytest
import torch
from one_stage_detectors import make_detector, pictures

from vovnet.deploy.export import verify
from vovnet.deploy.export.verify import Difference, verify_detector
from vovnet.deploy.onnx.session import BACKENDS, Detections
from vovnet.utils.errors import UserError

BOXES = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [0, 50, 40, 90]])
FOUND = Detections(BOXES, np.float32([0.9, 0.5, 0.3]), np.array([0, 1, 0]))
TEST = dict(score_thr=0.05, nms=dict(iou_threshold=0.5), max_per_img=100)


def change(found, i, **values):
    """The detections with one of them changed; None takes it away."""
    if not values:
        return Detections(*(np.delete(x, i, 0) for x in found[:3]))
    found = Detections(*(x.copy() for x in found[:3]))
    for name, value in values.items():
        getattr(found, name)[i] = value
    return found


def compare(expected, found, test):
    """Fields: found, boxes, scores, masks, edges, wrong."""
    difference = Difference('onnxruntime')
    difference.add_detections(expected, found, test)
    return (difference.found, difference.boxes, difference.scores,
            difference.masks, difference.edges, difference.wrong)


def test_compare():
    assert compare(FOUND, FOUND, TEST) == (3, 0, 0, 1, 0, 0)
    # The order of detections makes no difference, the label does.
    order = Detections(*(x[[2, 0, 1]] for x in FOUND[:3]))
    assert compare(FOUND, order, TEST) == (3, 0, 0, 1, 0, 0)
    other = change(FOUND, 1, labels=2)
    assert compare(FOUND, other, TEST)[4:] == (0, 2)
    moved = change(FOUND, 2, boxes=BOXES[2] + 0.25, scores=0.25)
    assert compare(FOUND, moved, TEST) == pytest.approx(
        (3, 0.25, 0.05, 1, 0, 0), abs=1e-6)
    # Detections of one side alone: at an edge or not.
    less = change(FOUND, 2)
    assert compare(FOUND, less, TEST)[4:] == (0, 1)
    assert compare(less, FOUND, TEST)[4:] == (0, 1)
    for test in (dict(TEST, score_thr=0.29995), dict(TEST, max_per_img=3)):
        assert compare(FOUND, less, test)[4:] == (1, 0)
        assert compare(less, FOUND, test)[4:] == (1, 0)
    # IoU 2/3 with another of its class is the threshold of NMS.
    twin = change(FOUND, 1, boxes=[2, 0, 12, 10], labels=0)
    test = dict(TEST, nms=dict(iou_threshold=2 / 3))
    assert compare(twin, change(twin, 1), test)[4:] == (1, 0)
    assert compare(twin, change(twin, 1), TEST)[4:] == (0, 1)
    assert compare(FOUND, change(FOUND, slice(None)), TEST)[5] == 3


def test_compare_masks():
    mask = np.zeros((3, 20, 20), bool)
    mask[:, 5:15, 5:15] = True
    other = mask.copy()
    other[1, 5, 5:10] = False
    *_, masks, _, wrong = compare(
        FOUND._replace(masks=mask), FOUND._replace(masks=other), TEST)
    assert masks == pytest.approx(0.95) and not wrong


def test_nan_is_a_difference_wherever_it_stands():
    good, bad = np.ones(3), np.full(3, np.nan)
    for found in ([good, bad], [bad, good]):
        difference = Difference('onnxruntime', maps=True)
        difference.add_maps([good, good], found)
        assert not difference.is_tolerable()
    for i in range(3):
        difference = Difference('onnxruntime')
        difference.add_detections(FOUND, change(FOUND, i, scores=np.nan), TEST)
        assert not difference.is_tolerable()


@pytest.mark.parametrize('name, options, message', [
    ('retinanet', {}, r'^d.onnx: differs from the model.* boxes differ by '
     r'\d.* px, .* on one side alone'),
    ('fcos', dict(maps=True), 'differs from .* maps, which differ by')])
def test_a_difference_is_an_error(name, options, message, exported):
    *_, file = exported(name, **options)
    model, cfg = make_detector(name)
    with torch.no_grad():  # as if the exporter had lost a weight
        if options:
            model.bbox_head.conv_centerness.bias += 0.1
        else:
            model.bbox_head.retina_reg.weight[0] += 0.2
    with pytest.raises(UserError, match=message):
        verify_detector(model, cfg, file, pictures())


def test_another_accuracy_is_an_error(monkeypatch, exported):
    model, cfg, file = exported('fcos')
    values = iter([0.5, 0.5005, 0.4985])
    monkeypatch.setattr(verify, '_evaluate', lambda *args: {
        'coco/bbox_mAP': next(values), 'coco/bbox_mAP_s': -1})
    found = verify.measure_accuracies(model, cfg, file)
    assert [next(found)[0], next(found)[0], next(found)[0]] == [
        'model', 'onnxruntime', 'openvino']
    with pytest.raises(UserError, match='bbox_mAP is 0.4985 in openvino, but '
                       '0.5000'):
        next(found)
    values = iter([0.5, float('nan')])
    with pytest.raises(UserError, match='bbox_mAP is nan in onnxruntime'):
        list(verify.measure_accuracies(model, cfg, file))


def test_missing_runtimes(monkeypatch, exported):
    model, cfg, file = exported('dsod')
    monkeypatch.setattr(verify, 'find_spec', lambda name: None)
    difference, = verify_detector(model, cfg, file, pictures())
    assert difference.backend == BACKENDS[0] == 'onnxruntime'
    monkeypatch.setattr('vovnet.utils.errors.find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install onnxruntime$'):
        verify_detector(model, cfg, file, pictures())


def test_pictures_to_compare_on(tmp_path):
    _, cfg = make_detector('dsod')
    images, source = verify.load_images(cfg, count=3)  # without test data
    assert 'generated shapes' in source
    assert [image.shape for image in images] == [
        (320, 320, 3), (304, 320, 3), (320, 288, 3)]
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
    found, source = verify.load_images(cfg, [str(tmp_path)], 2)
    assert source == str(tmp_path) and len(found) == 2
    np.testing.assert_array_equal(found[1], images[1])
    (tmp_path / '0.png').write_text('no image')
    with pytest.raises(UserError, match='0.png: cannot be read'):
        verify.load_images(cfg, [str(tmp_path)], 2)
