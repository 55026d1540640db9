"""The transforms, on a data set in VOC's layout."""
import vovnet  # isort: skip  # noqa: F401  # first, for mmcv's operators
from mmdet.datasets import XMLDataset

from vovnet.datasets import make_shapes

LOAD = [dict(type='LoadImageFromFile'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True)]
PACK = dict(type='mmdet.PackDetInputs', meta_keys=())


def test_difficult_objects_are_kept(tmp_path):
    """Half of the objects are made difficult; the reader ignores them."""
    make_shapes(tmp_path, num_train=4, num_val=1, size=64, layout='voc')
    counts = []
    for file in sorted((tmp_path / 'Annotations').iterdir()):
        text = file.read_text()
        marked = text.replace('<difficult>0', '<difficult>1',
                              text.count('<object>') // 2)
        file.write_text(marked)
    for steps in ([], [dict(type='KeepDifficultObjects')]):
        data = XMLDataset(
            data_root=str(tmp_path), ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=('circle', 'square', 'triangle', 'star',
                                   'cross')),
            pipeline=[*LOAD, *steps, PACK])
        samples = [data[i]['data_samples'] for i in range(len(data))]
        counts.append([(len(s.gt_instances), len(s.ignored_instances))
                       for s in samples])
    plain, kept = counts
    assert any(ignored for _, ignored in plain)
    assert kept == [(learnt + ignored, 0) for learnt, ignored in plain]
