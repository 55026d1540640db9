"""vovnet.deploy.optimize.backends: other runtimes give torch's outputs."""
import importlib
import sys

import pytest
import torch
from mmengine.registry import MODELS
from test_optimize import build
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from vovnet.deploy.optimize import backends
from vovnet.deploy.optimize.apply import compute_difference
from vovnet.deploy.optimize.backends import load_runtime
from vovnet.deploy.optimize.modes import MODES
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
    assert [name for name in MODES if MODES[name].runtime] == list(TOLERANCE)


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
        assert 0 < compute_difference(found, expected) < TOLERANCE[mode]
    assert before == sum(
        isinstance(m, _BatchNorm) for m in backbone.modules()) > 0


@pytest.mark.parametrize('mode', ['onnxruntime', 'openvino'])
def test_a_detectors_maps(mode):
    model = build('RetinaNet')
    images = IMAGES[:1]
    with torch.no_grad():
        expected = run_network(model, images)
    found = load_runtime(mode, model, [images])(images)
    assert len(found) == len(tree_leaves(expected)) == 6
    assert compute_difference(found, expected) < 1e-4


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
    for mode in TOLERANCE:
        load_runtime(mode, backbone, [IMAGES])
    assert asked == [torch.get_num_threads()] * 3


def test_proposals_are_refused():
    with pytest.raises(UserError, match='MaskRCNN pools a dynamic number'):
        load_runtime('onnxruntime', build('two stages'), [IMAGES])


def test_what_cannot_be_exported_says_so(backbone, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('no operator\nand more')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(UserError, match=r'VoVNet cannot be exported \(no '
                       r'operator\); leave the mode out'):
        load_runtime('onnxruntime', backbone, [IMAGES])


def test_importing_loads_no_runtime(monkeypatch):
    """Both are heavy, and may be missing."""
    for package in 'onnxruntime', 'openvino', 'onnx':
        monkeypatch.setitem(sys.modules, package, None)
    importlib.reload(backends)
