"""vovnet.deploy.optimize.backends: other runtimes give torch's outputs."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

import vovnet
from vovnet.deploy.optimize.apply import difference
from vovnet.deploy.optimize.backends import load_runtime, runtimes
from vovnet.engine.build import build_network
from vovnet.engine.config import load_config
from vovnet.utils.dummy_forward import run_network
from vovnet.utils.errors import UserError

IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
# 8 bits of mantissa, some ten layers.
TOLERANCE = {'onnxruntime': 1e-5, 'openvino': 1e-5, 'openvino-bf16': 0.05}


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    return MODELS.build(dict(
        type='VoVNet', stem='strided', residual=True, ese='last', arch=dict(
            num_blocks=(1, 2), num_layers=2, stem_channels=(8, 8, 8),
            stage_channels=(8, 16), aggregated_channels=(16, 24)))).eval()


def test_all_runtimes_are_here():
    assert runtimes() == list(TOLERANCE)


@pytest.mark.parametrize('mode', TOLERANCE)
def test_backbones(backbone, mode, any_bf16):
    before = sum(isinstance(m, _BatchNorm) for m in backbone.modules())
    run = load_runtime(mode, backbone, [IMAGES, IMAGES, IMAGES[:1, :, :64]])
    for images in IMAGES, IMAGES[:1, :, :64], IMAGES:
        with torch.no_grad():
            expected = backbone(images)
        found = run(images)
        assert [f.shape for f in found] == [e.shape for e in expected]
        assert {f.dtype for f in found} == {torch.float32}
        assert 0 < difference(found, expected) < TOLERANCE[mode]
    assert before == sum(
        isinstance(m, _BatchNorm) for m in backbone.modules()) > 0


@pytest.mark.parametrize('mode', ['onnxruntime', 'openvino'])
def test_a_detectors_maps(mode):
    torch.manual_seed(0)
    model = build_network(load_config(
        'configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py')).eval()
    images = IMAGES[:1]
    with torch.no_grad():
        expected = run_network(model, images)
    found = load_runtime(mode, model, [images])(images)
    assert len(found) == len(tree_leaves(expected)) == 6
    assert difference(found, expected) < 1e-4


def test_threads_are_torchs(backbone, any_bf16, monkeypatch):
    import onnxruntime
    import openvino
    asked = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, 'InferenceSession', lambda file, options, **kwargs: (
            asked.append(options.intra_op_num_threads),
            session(file, options, **kwargs))[1])
    compile = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, 'compile_model', lambda self, model, device, config: (
            asked.append(config['INFERENCE_NUM_THREADS']),
            compile(self, model, device, config))[1])
    for mode in runtimes():
        load_runtime(mode, backbone, [IMAGES])
    assert asked == [torch.get_num_threads()] * 3


def test_proposals_are_refused():
    model = build_network(load_config(
        'configs/demo/mask-rcnn_vovnet-27-slim_fpn_shapes.py')).eval()
    with pytest.raises(UserError, match='MaskRCNN works on proposals'):
        load_runtime('onnxruntime', model, [IMAGES])


def test_what_cannot_be_exported_says_so(backbone, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('no operator\nand more')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(UserError, match=r'VoVNet cannot be exported \(no '
                       r'operator\); leave the mode out'):
        load_runtime('onnxruntime', backbone, [IMAGES])


def test_importing_loads_no_runtime():
    """Both are heavy, and may be missing."""
    code = ('import sys; sys.modules.update(onnxruntime=None, openvino=None, '
            'onnx=None); import vovnet.deploy.optimize.backends')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True, env=dict(os.environ, PYTHONPATH=str(
                              Path(vovnet.__file__).parents[1])))
    assert done.returncode == 0, done.stderr
