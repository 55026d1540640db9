"""The sheet of ground truth beside detections."""
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from vovnet.analysis import draw_detection_sheet, sample_evenly
from vovnet.datasets import make_shapes


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('sheet') / 'shapes'
    make_shapes(root, num_train=1, num_val=5, size=64)
    init_default_scope('mmdet')
    return DATASETS.build(dict(
        type='CocoDataset', data_root=f'{root}/',
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'), test_mode=True,
        metainfo=dict(classes=('circle', 'square', 'triangle', 'star',
                               'cross')),
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='PackDetInputs')]))


class Detector:
    """Finds one box in every image, the same with a score of 0.5."""

    def __init__(self, boxes=((16., 16., 48., 48.), )):
        self.boxes = torch.tensor(boxes).reshape(-1, 4)

    def test_step(self, data):
        count = len(self.boxes)
        return [DetDataSample(pred_instances=InstanceData(
            bboxes=self.boxes, labels=torch.zeros(count, dtype=torch.long),
            scores=torch.full((count, ), 0.5)))]


def differs(sheet, i, cell=128):
    """Where the two pictures of pair i of a one-column sheet differ."""
    top = 28 + i * (cell + 8)
    left, right = (sheet[top:top + cell, k * cell:(k + 1) * cell].astype(int)
                   for k in (0, 1))
    return np.abs(left - right).max(axis=-1) > 40


def test_indices_are_spread():
    assert sample_evenly(200, 4) == [0, 50, 100, 150]
    assert sample_evenly(3, 12) == [0, 1, 2]


def test_sheet_shows_images_truth_and_detections(dataset):
    sheet = draw_detection_sheet(Detector(), dataset, [0, 2, 4], columns=1,
                            cell=128)
    assert sheet.shape == (28 + 3 * 136, 264, 3) and sheet.dtype == np.uint8
    nothing = draw_detection_sheet(Detector(()), dataset, [0, 2, 4], columns=1,
                              cell=128)
    for i, index in enumerate((0, 2, 4)):
        picture = dataset[index]['inputs'].permute(1, 2, 0).numpy()
        top = 28 + i * 136
        # Without detections the right picture is the image, enlarged; its
        # channels are RGB, the data set's are BGR.
        plain = nothing[top:top + 128, 128:256]
        small = plain.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small - picture[..., ::-1]).mean() < 8
        # A detection changes pixels along its box and none far from it.
        changed = np.abs(sheet[top:top + 128, 128:256].astype(int) -
                         plain).max(-1) > 15
        assert changed[32:96, 31:34].any(axis=1).mean() > 0.8
        assert not changed[112:].any()
        # Truth was drawn in the left picture.
        assert differs(nothing, i).any()


def test_low_scores_are_left_out(dataset):
    shown, hidden = (
        draw_detection_sheet(Detector(), dataset, [0], score_thr=threshold)
        for threshold in (0.4, 0.6))
    empty = draw_detection_sheet(Detector(()), dataset, [0])
    assert np.array_equal(hidden, empty)
    assert not np.array_equal(shown, empty)


def test_the_best_of_several_in_one_place_is_drawn(dataset):

    class Twice(Detector):

        def test_step(self, data):
            found = super().test_step(data)
            found[0].pred_instances.scores = torch.tensor([0.5, 0.4])
            found[0].pred_instances.labels = torch.tensor([0, 1])
            return found

    box = (16., 16., 48., 48.)
    twice = draw_detection_sheet(Twice((box, box)), dataset, [0])
    once = draw_detection_sheet(Detector(), dataset, [0])
    assert np.array_equal(twice, once)


def test_masks_are_drawn(dataset):

    class Masked(Detector):

        def test_step(self, data):
            found = super().test_step(data)
            mask = torch.zeros(1, 64, 64, dtype=torch.bool)
            mask[:, 16:48, 16:48] = True
            found[0].pred_instances.masks = mask
            return found

    with_masks, without = (
        draw_detection_sheet(model, dataset, [0], columns=1, cell=128,
                        with_masks=with_masks)
        for model, with_masks in ((Masked(), True), (Detector(), False)))
    # Inside the box, away from its label, only the mask makes a difference.
    inside = (slice(28 + 70, 28 + 90), slice(128 + 40, 128 + 90))
    change = np.abs(with_masks[inside].astype(int) - without[inside]).max(-1)
    assert (change > 10).mean() > 0.9
