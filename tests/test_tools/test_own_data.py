"""The files that a user copies, used as docs/own_data.md says."""
import os
import re
from pathlib import Path

import pytest
from tool_runs import CLASSES, ROOT

CUSTOM = ROOT / 'configs/custom'


def copy(template: str, target: Path, **changes) -> Path:
    """Copy a template and change lines of its block, as a user would."""
    text = (CUSTOM / template).read_text()
    for name, value in changes.items():
        text, found = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', text,
                              flags=re.M)
        assert found == 1, name
    # The copy lies elsewhere only to keep the checkout clean.
    text = text.replace("'../_base_", f"'{ROOT}/configs/_base_")
    target.write_text(text)
    return target


@pytest.mark.parametrize('layout', ['coco', 'voc'])
def test_train_and_test(layout, request, run_tool, tmp_path):
    data = request.getfixturevalue(
        'shapes' if layout == 'coco' else 'shapes_voc')
    changes = dict(data_root=f'{data}/', classes=CLASSES, max_epochs=1,
                   scale=(96, 96))
    if layout == 'voc':
        changes['test_split'] = 'ImageSets/Main/val.txt'
    config = copy(f'retinanet_vovnet-27-slim_fpn_my-{layout}.py',
                  tmp_path / 'mine.py', **changes)
    if layout == 'coco':
        config.write_text(config.read_text().replace(
            "'annotations/train.json'", "'annotations/instances_train.json'"
        ).replace("'annotations/val.json'", "'annotations/instances_val.json'")
        )
    # One epoch makes no detector: count whatever it says.
    everything = ['--cfg-options', 'model.test_cfg.score_thr=0']
    done = run_tool(tmp_path, 'tools/train.py', config, *everything)
    assert done.returncode == 0, done.stderr
    assert re.search(r'Epoch\(val\).*mAP', done.stdout)
    done = run_tool(tmp_path, 'tools/test.py', config,
                    'work_dirs/mine/epoch_1.pth', *everything)
    assert done.returncode == 0, done.stderr
    assert re.search(r'Epoch\(test\).*mAP', done.stdout)


@pytest.mark.parametrize('layout', ['coco', 'voc'])
def test_unchanged_template_says_what_is_missing(layout, run_tool, tmp_path):
    template = CUSTOM / f'retinanet_vovnet-27-slim_fpn_my-{layout}.py'
    done = run_tool(tmp_path, 'tools/train.py', template)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and f'data/my_{layout}' in last
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('layout', ['coco', 'voc'])
def test_other_classes_are_listed(layout, request, run_tool, tmp_path):
    data = request.getfixturevalue(
        'shapes' if layout == 'coco' else 'shapes_voc')
    config = copy(f'retinanet_vovnet-27-slim_fpn_my-{layout}.py',
                  tmp_path / 'mine.py', data_root=f'{data}/')
    if layout == 'coco':
        config.write_text(config.read_text().replace(
            "'annotations/train.json'", "'annotations/instances_train.json'"))
    done = run_tool(tmp_path, 'tools/train.py', config)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert 'cat' in last and 'circle' in last


@pytest.mark.skipif('VOVNET_BCCD' not in os.environ,
                    reason='extra: VOVNET_BCCD names the BCCD folder')
def test_photographs(run_tool, tmp_path):
    config = copy(
        'retinanet_vovnet-27-slim_fpn_my-voc.py', tmp_path / 'mine.py',
        data_root=os.environ['VOVNET_BCCD'] + '/',
        classes=('RBC', 'WBC', 'Platelets'), max_epochs=1)
    done = run_tool(tmp_path, 'tools/train.py', config)
    assert done.returncode == 0, done.stderr
    assert re.search(r'Epoch\(val\).*mAP', done.stdout)
