"""Tiny detectors that were exported, each way once."""
import functools

import pytest


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """Export a tiny one-stage detector: (model, config, file)."""
    from one_stage_detectors import make_detector, write

    @functools.cache
    def export(name, **options):
        model, cfg = make_detector(name)
        file = tmp_path_factory.mktemp(name) / 'd.onnx'
        write(model, cfg, file, **options)
        return model, cfg, file

    return export
