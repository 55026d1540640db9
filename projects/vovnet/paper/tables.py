"""The VoVNet paper's tables of detectors, with the configs of their networks.

Tables 2, 3 and 4 of arXiv:1904.09730: a TITAN X (Pascal), CUDA 9.2, cuDNN
7.3, Caffe; BN not folded; power by nvidia-smi every 100 ms. Batch 1 is not
stated, but fits. FLOPs are multiply-adds there.
"""
from collections.abc import Sequence
from typing import NamedTuple

from ..checkpoints.metafiles import INDEX, read_index

# A metafile's key of each figure, by the titles of a benchmark's columns.
METAFILE_KEYS = {
    'multiply-adds, G': 'Multiply-adds (G)',
    'FPS': 'FPS',
    'parameters, M': 'Parameters (M)',
    'peak memory, MB': 'Memory (MB)',
    'J/image': 'Energy (J/im)',
}

# Name, config, and what the table prints beside or in place of the metafile's
# figures. Table 3 prints 14 and 18 ms instead of FPS.
TABLES = dict(
    table2=(
        ('SSD300 MobileNet', 'ssd/ssd300_mobilenet_voc0712',
         {'GFLOP/s': 42}),
        ('Pelee304 PeleeNet', 'pelee/pelee304_peleenet_voc0712',
         {'GFLOP/s': 43}),
        ('DSOD300 DenseNet-67', 'dsod/dsod300_densenet-67_voc0712',
         {'GFLOP/s': 189}),
        ('DSOD300 VoVNet-27-slim', 'dsod/dsod300_vovnet-27-slim_voc0712',
         {'GFLOP/s': 400})),
    table3=(
        ('DSOD300 VoVNet-27-slim', 'dsod/dsod300_vovnet-27-slim_voc0712',
         {'FPS': 1000 / 14, 'J/image': None}),
        ('+ bottleneck', 'dsod/dsod300_vovnet-27-slim_bottleneck_voc0712',
         {'FPS': 1000 / 18})),
    table4=(
        ('ResNet-50', 'refinedet/refinedet320_r50_coco',
         {'GFLOP/s': 591.3}),
        ('DenseNet-201', 'refinedet/refinedet320_densenet-201_coco',
         {'GFLOP/s': 296.9}),
        ('VoVNet-39', 'refinedet/refinedet320_vovnet-39_coco',
         {'GFLOP/s': 815.0}),
        ('ResNet-101', 'refinedet/refinedet320_r101_coco',
         {'GFLOP/s': 579.2}),
        ('DenseNet-161', 'refinedet/refinedet320_densenet-161_coco',
         {'GFLOP/s': 419.7}),
        ('VoVNet-57', 'refinedet/refinedet320_vovnet-57_coco',
         {'GFLOP/s': 775.5})))


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        name: Detector and backbone.
        config: Path of this project's config.
        figures: What the paper prints, by the titles of
            :data:`vovnet.benchmark.report.COLUMNS`.
        accuracy: VOC 2007 mAP (Tables 2 and 3) or COCO test-dev AP, %.
    """
    name: str
    config: str
    figures: dict[str, float]
    accuracy: float


def load_rows(tables: Sequence[str]) -> list[Row]:
    """Load the rows of one or several tables, each network once.

    Args:
        tables: Keys of :data:`TABLES`.

    Returns:
        Rows in the paper's order; the first table that has a network gives
        its figures.
    """
    models = {model.get('Config'): model for _, models in read_index(INDEX)
              for model in models}
    rows = {}
    for table in tables:
        for name, file, printed in TABLES[table]:
            config = f'configs/{file}.py'
            model = models[config]
            metrics = model['Results'][0]['Metrics']
            figures = {title: model['Metadata'].get(key)
                       for title, key in METAFILE_KEYS.items()} | printed
            figures = {title: figure for title, figure in figures.items()
                       if figure is not None}
            rows.setdefault(config, Row(name, config, figures,
                                        next(iter(metrics.values()))))
    return list(rows.values())
