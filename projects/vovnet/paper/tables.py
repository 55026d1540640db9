"""The VoVNet paper's tables of detectors, and which configs they are.

Source: Lee et al., arXiv:1904.09730, Tables 2, 3 and 4: a TITAN X (Pascal),
CUDA 9.2, cuDNN 7.3, Caffe; BN not folded; power by nvidia-smi every 100 ms.
Batch 1 is not stated, but fits. FLOPs are multiply-adds there.
"""
from typing import NamedTuple


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        name: Detector and backbone.
        config: Of this project.
        figures: What the paper prints, by the titles of
            :data:`vovnet.benchmark.report.COLUMNS`.
        accuracy: VOC 2007 mAP (Tables 2 and 3) or COCO test-dev AP, %.
    """
    name: str
    config: str
    figures: dict[str, float]
    accuracy: float


def _row(name: str, config: str, *values: float | None) -> Row:
    *figures, accuracy = values
    titles = ('multiply-adds, G', 'FPS', 'parameters, M', 'peak memory, MB',
              'J/image', 'GFLOP/s')
    return Row(name, f'configs/{config}.py', {
        title: value for title, value in zip(titles, figures)
        if value is not None}, accuracy)


_DSOD_VOVNET = 'dsod/dsod300_vovnet-27-slim_voc0712'
_REFINEDET = 'refinedet/refinedet320_{}_coco'

# multiply-adds, FPS, parameters, memory, energy, efficiency, accuracy
TABLES = dict(
    table2=(
        _row('SSD300 MobileNet', 'ssd/ssd300_mobilenet_voc0712',
             1.1, 37, 5.7, 766, 2.3, 42, 68.0),
        _row('Pelee304 PeleeNet', 'pelee/pelee304_peleenet_voc0712',
             1.2, 35, 5.4, 1104, 2.4, 43, 70.9),
        _row('DSOD300 DenseNet-67', 'dsod/dsod300_densenet-67_voc0712',
             5.3, 35, 5.9, 1294, 3.7, 189, 73.6),
        _row('DSOD300 VoVNet-27-slim', _DSOD_VOVNET,
             5.6, 71, 5.9, 825, 0.9, 400, 74.8)),
    # It prints 14 and 18 ms instead of FPS.
    table3=(
        _row('DSOD300 VoVNet-27-slim', _DSOD_VOVNET,
             5.6, 1000 / 14, 5.9, 825, None, None, 74.8),
        _row('+ bottleneck', 'dsod/dsod300_vovnet-27-slim_bottleneck_voc0712',
             4.6, 1000 / 18, 4.8, 895, None, None, 71.1)),
    table4=(
        _row('ResNet-50', _REFINEDET.format('r50'),
             25.43, 23.2, 63.46, 2229, 5.3, 591.3, 30.3),
        _row('DenseNet-201', _REFINEDET.format('densenet-201'),
             24.65, 12.0, 56.13, 3498, 9.9, 296.9, 32.5),
        _row('VoVNet-39', _REFINEDET.format('vovnet-39'),
             32.6, 25.0, 56.28, 2199, 4.8, 815.0, 33.5),
        _row('ResNet-101', _REFINEDET.format('r101'),
             33.02, 17.5, 82.45, 3013, 7.5, 579.2, 32.0),
        _row('DenseNet-161', _REFINEDET.format('densenet-161'),
             32.74, 12.8, 66.76, 3628, 10.0, 419.7, 33.5),
        _row('VoVNet-57', _REFINEDET.format('vovnet-57'),
             36.45, 21.2, 70.32, 2511, 5.9, 775.5, 33.9)))


def rows(tables: list[str]) -> list[Row]:
    """Rows of one or several tables, each network once.

    Args:
        tables (list[str]): Keys of :data:`TABLES`.

    Returns:
        list[Row]: In the paper's order; the first table that has a network
        gives its figures.
    """
    found = {}
    for table in tables:
        for row in TABLES[table]:
            found.setdefault(row.config, row)
    return list(found.values())
