"""detectron2's detectors, on the command line."""
import sys

import torch
from tool_runs import ROOT, hashes

from vovnet.checkpoints import load_file

sys.path.insert(0, str(ROOT / 'tests/test_checkpoints'))
import detectron2_reference as d2

CONVERT = 'tools/model_converters/detectron2_to_mmdet.py'
CONFIG = ('configs/faster_rcnn/'
          'faster-rcnn_vovnetv2-19-slim-dw_fpnlite_d2-3x_coco.py')


def error_line(run, *parts):
    lines = run.stderr.strip().splitlines()
    assert run.returncode == 1 and len(lines) == 1, run.stderr
    assert lines[0].startswith('error: ')
    for part in parts:
        assert part in lines[0]


def test_a_detector(run_tool, tmp_path):
    state = d2.random_detector('faster')
    torch.save(dict(model=state, iteration=269999), tmp_path / 'd2.pth')
    run = run_tool(tmp_path, CONVERT, 'd2.pth', CONFIG, 'out/ours.pth')
    assert run.returncode == 0, run.stderr
    # 8 in FPN's laterals, 8 in its outputs, 6 in RPN, 8 in the box head.
    assert ("tensors of the backbone, 30 of neck and heads, 7 constants as in "
            'the config\n') in run.stdout
    assert "arch='V2-19-slim-dw'" in run.stdout
    assert f'tools/test.py {CONFIG} out/ours.pth' in run.stdout
    weights = load_file(tmp_path / 'out/ours.pth')['state_dict']
    assert torch.equal(weights['roi_head.bbox_head.fc_cls.weight'],
                       state['roi_heads.box_predictor.cls_score.weight'])


def test_what_cannot_be_converted(run_tool, tmp_path):
    torch.save({'layer1.0.conv1.weight': torch.ones(1)},
               tmp_path / 'resnet.pth')
    (tmp_path / 'page.pth').write_text('<html>Sign in')
    before = hashes(tmp_path)
    for args, *parts in (
            (['resnet.pth', CONFIG, 'b.pth'], 'resnet.pth',
             'holds no detector of detectron2'),
            (['page.pth', CONFIG, 'b.pth'], 'page.pth', 'web page'),
            (['d2.pth', 'configs/no.py', 'b.pth'], 'configs/no.py')):
        error_line(run_tool(tmp_path, CONVERT, *args), *parts)
    after = hashes(tmp_path)
    assert {k: after.get(k) for k in before} == before
    assert not list(tmp_path.glob('*b.pth*'))


def test_downloaded_file_says_what_is_next(run_tool, tmp_path):
    """A file that is in the cache already; nothing is fetched."""
    from vovnet.checkpoints.download import get_cache_name
    (tmp_path / 'zoo').mkdir()
    (tmp_path / 'model-index.yml').write_text('Import: [zoo/m.yml]')
    url = 'http://127.0.0.1:9/d2.pth'
    (tmp_path / 'zoo/m.yml').write_text(f'''
Models:
  - {{Name: theirs, Config: configs/x.py, Weights: '{url}',
     Metadata: {{License: MIT, Weights Format: detectron2}}}}
''')
    torch.save(dict(w=torch.ones(1)), tmp_path / get_cache_name(url))
    run = run_tool(tmp_path, 'tools/misc/download_weights.py', 'theirs',
                   '--index', 'model-index.yml', '--out-dir', '.')
    assert run.returncode == 0, run.stderr
    path, use = run.stdout.splitlines()
    assert use == (f'license: MIT; next: python {CONVERT} {path} configs/x.py '
                   'DST.pth')
