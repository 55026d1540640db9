"""Export: write, verify, publish, and what it refuses."""
import pytest
import torch
from one_stage_detectors import make_detector, pictures

from vovnet.deploy.export.export import export_detector
from vovnet.utils.errors import UserError


def test_nothing_is_published_that_differs(tmp_path, monkeypatch):
    model, cfg = make_detector('retinanet')
    file = tmp_path / 'd.onnx'
    file.write_bytes(b'an older file')
    export_onnx = torch.onnx.export

    def export_and_change(*args, **kwargs):
        export_onnx(*args, **kwargs)
        with torch.no_grad():  # as if the exporter had lost a weight
            model.bbox_head.retina_reg.weight[0] += 0.2

    monkeypatch.setattr(torch.onnx, 'export', export_and_change)
    with pytest.raises(UserError, match='^d.onnx: differs from the model, and '
                       'was not written'):
        export_detector(model, cfg, file, pictures())
    assert file.read_bytes() == b'an older file'
    assert list(tmp_path.iterdir()) == [file]


def test_the_model_is_left_as_it_was(tmp_path, monkeypatch):
    export_onnx = torch.onnx.export
    chosen = []

    def record(*args, **kwargs):
        chosen.append(kwargs['dynamo'])
        return export_onnx(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, 'export', record)
    model, cfg = make_detector('dsod')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', pictures())
    assert list(tmp_path.iterdir()) == [file]
    assert chosen == [False]  # the exporter does not depend on the version
    assert not any(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_bad_shapes_and_options(tmp_path):
    model, cfg = make_detector('retinanet')
    file = tmp_path / 'd.onnx'
    for options, message in [
            (dict(shape=(60, 64)), '--shape 60 64: .* multiples of 32'),
            (dict(opset=0), '--opset 0:'),
            (dict(opset=9), '--opset 9: .* torchscript .* 11 to 20'),
            (dict(opset=17, exporter='dynamo'), 'dynamo .* 18 to 23'),
            (dict(exporter='none'), "'none'.* torchscript, dynamo"),
    ]:
        with pytest.raises(UserError, match=message):
            export_detector(model, cfg, file, pictures(), **options)
    with pytest.raises(UserError, match='must end in .onnx'):
        export_detector(model, cfg, tmp_path / 'd.pt', pictures())
    model, cfg = make_detector('refinedet')
    with pytest.raises(UserError, match=r'--shape 20 20: the network cannot '
                       r'take it \(RefineDetNeck'):
        export_detector(model, cfg, file, pictures(), shape=(20, 20))
    assert not list(tmp_path.iterdir())


def test_what_an_exporter_cannot_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):  # the form of its errors, of many lines
        raise torch.onnx.OnnxExporterError('Step 1/3\n') from \
            AssertionError('Expected op to be ==\nfor width')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(UserError, match=r'^--exporter dynamo: .* \(Expected op'
                       r' to be ==\); take the other exporter'):
        export_detector(*make_detector('dsod'), tmp_path / 'd.onnx',
                        pictures(), exporter='dynamo')
    assert not list(tmp_path.iterdir())


def test_detectors_without_a_path(tmp_path):
    model, cfg = make_detector('fcos')
    with pytest.raises(UserError, match='^Linear: .*RetinaNet'):
        export_detector(torch.nn.Linear(1, 1), cfg, tmp_path / 'd.onnx', [])
    cfg.test_dataloader.dataset.pipeline.insert(
        2, dict(type='CenterCrop', crop_size=32))
    with pytest.raises(UserError, match="pipeline's CenterCrop"):
        export_detector(model, cfg, tmp_path / 'd.onnx', [])


@pytest.mark.parametrize('package, exporter', [
    ('onnx', 'torchscript'), ('onnxscript', 'dynamo'),
    ('onnxruntime', 'torchscript')])
def test_missing_packages(package, exporter, tmp_path, monkeypatch):
    monkeypatch.setattr('vovnet.utils.errors.find_spec',
                        lambda name: None if name == package else name)
    with pytest.raises(UserError, match=f'^{package}: .* pip install '
                       f'{package}$'):
        export_detector(*make_detector('retinanet'), tmp_path / 'd.onnx', [],
                        exporter=exporter)
