"""Mistakes end with one line that names the file and the remedy."""
import os
import shutil
from pathlib import Path

import pytest
import torch
from tool_runs import hashes


def error_line(run, *parts: str) -> str:
    """The one line of a tool that has failed as it should."""
    assert run.returncode == 1, run.stdout + run.stderr
    assert 'Traceback' not in run.stdout + run.stderr
    lines = [line for line in run.stderr.splitlines() if 'error: ' in line]
    assert len(lines) == 1 and lines[0].startswith('error: '), run.stderr
    for part in parts:
        assert str(part) in lines[0]
    return lines[0]


@pytest.fixture
def data(shapes, tmp_path) -> Path:
    """A copy of the data set, to be spoilt."""
    return Path(shutil.copytree(shapes, tmp_path / 'data'))


# -- configs and options ----------------------------------------------------


def test_missing_config(run_tool, tmp_path):
    run = run_tool(tmp_path, 'tools/train.py', 'configs/nowhere.py')
    error_line(run, 'configs/nowhere.py', 'check the path')
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.parametrize('text, parts', [
    ('a = 1\nb = (2\n', ['SyntaxError', 'line 2']),
    ('a = 1\nb = a + missing\n', ['line 2', "'missing' is not defined"]),
    ("_base_ = 'gone.py'\n", ['gone.py']),
])
def test_broken_config(text, parts, run_tool, tmp_path):
    (tmp_path / 'broken.py').write_text(text)
    run = run_tool(tmp_path, 'tools/train.py', 'broken.py')
    error_line(run, 'broken.py', *parts)


def test_option_without_a_value(run_tool, write_config, tmp_path):
    write_config(tmp_path / 'c.py')
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--cfg-options',
                   'train_cfg.max_epochs')
    assert run.returncode == 2  # as argparse has it
    assert 'expected KEY=VALUE' in run.stderr.splitlines()[-1]
    assert 'Traceback' not in run.stderr


@pytest.mark.parametrize('option, parts', [
    ('data_root.x=1', ['data_root', '--cfg-options']),
    ('model.neck.type=FNP', ['FNP', 'spelling']),
    ('model.neck.in_chanels=1', ['FPN', 'in_chanels', 'spelling']),
    ('model.backbone.ese=some', ['ese', 'some', 'last']),
    ('train_dataloader.dataset.type=CocoDatset', ['CocoDatset']),
])
def test_wrong_setting(option, parts, run_tool, write_config, tmp_path):
    write_config(tmp_path / 'c.py')
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--cfg-options', option)
    error_line(run, *parts)


def test_options_that_do_not_fit(run_tool, write_config, tmp_path):
    write_config(tmp_path / 'c.py', 'auto_scale_lr = dict(enable=False)\n')
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--auto-scale-lr')
    error_line(run, '--auto-scale-lr', 'base_batch_size')
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--amp',
                   CUDA_VISIBLE_DEVICES='')
    error_line(run, '--amp', 'GPU')


def test_traceback_on_demand(run_tool, tmp_path):
    run = run_tool(tmp_path, 'tools/train.py', 'no.py', VOVNET_TRACEBACK='1')
    assert 'Traceback' in run.stderr and 'UserError' in run.stderr


# -- data -------------------------------------------------------------------


def test_missing_image(data, run_tool, write_config, tmp_path):
    """Of what is found in the data, this: see test_detection_data."""
    image = data / 'train/train_000003.jpg'
    image.unlink()
    config = write_config(tmp_path / 'c.py', data=data)
    before = hashes(data)
    run = run_tool(tmp_path, 'tools/train.py', config)
    error_line(run, image, '1 of 12 images', 'data_prefix')
    assert hashes(data) == before
    assert hashes(tmp_path / 'work_dirs') == {}


@pytest.mark.parametrize('workers', [0, 2])
def test_image_cut_short(workers, data, run_tool, write_config, tmp_path):
    image = data / 'train/train_000003.jpg'
    content = image.read_bytes()
    image.write_bytes(content[:len(content) // 2])
    config = write_config(
        tmp_path / 'c.py', f'train_dataloader.update(num_workers={workers})\n',
        data=data)
    run = run_tool(tmp_path, 'tools/train.py', config)
    error_line(run, image, 'cannot be read as an image', 'replace it')


# -- checkpoints ------------------------------------------------------------


def damaged(kind: str, good: Path, path: Path) -> list:
    """Write a file that is no checkpoint, and say what to expect."""
    content = good.read_bytes()
    if kind == 'missing':
        return ['no such file', 'check the path']
    if kind == 'empty':
        path.write_bytes(b'')
        return ['is empty', 'again']
    if kind == 'truncated':
        path.write_bytes(content[:len(content) // 2])
        return ['cut short', 'again']
    if kind == 'web page':
        path.write_text('<!DOCTYPE html>\n<html>Sign in</html>')
        return ['is a web page', 'direct link']
    if kind == 'weights of nothing':
        torch.save(dict(epoch=3), path)
        return ['no weights', 'epoch', 'convert']
    if kind == 'other model':
        torch.save({f'fc{i}.weight': torch.ones(2) for i in range(5)}, path)
        return ['another model', '0 tensors loaded', '5 unexpected',
                'fc0.weight', 'backbone.stem', 'missing']
    weights = torch.load(good, weights_only=False)['state_dict']
    if kind == 'other classes':
        key = 'bbox_head.conv_cls.bias'
        torch.save({**weights, key: torch.ones(80)}, path)
        return ['another model', f'{len(weights) - 1} tensors loaded',
                f'1 of another shape: {key}']
    assert kind == 'lacks some'
    del weights['neck.fpn_convs.0.conv.bias']
    torch.save(dict(state_dict=weights), path)
    return ['another model', f'{len(weights)} tensors loaded', '1 missing',
            'neck.fpn_convs.0.conv.bias']


@pytest.mark.parametrize('kind', [
    'missing', 'empty', 'truncated', 'web page', 'weights of nothing',
    'other model', 'other classes', 'lacks some'])
def test_checkpoint_that_will_not_do(kind, trained, run_tool, tmp_path):
    config, work_dir, _ = trained
    path = tmp_path / 'w.pth'
    parts = damaged(kind, work_dir / 'epoch_1.pth', path)
    run = run_tool(tmp_path, 'tools/test.py', config, 'w.pth')
    error_line(run, 'checkpoint w.pth', *parts)


def test_fine_tuning_from_another_model_is_reported(trained, run_tool,
                                                    tmp_path):
    config, work_dir, _ = trained
    path = tmp_path / 'w.pth'
    damaged('other classes', work_dir / 'epoch_1.pth', path)
    start = ['tools/train.py', config, '--cfg-options', f'load_from={path}']
    run = run_tool(tmp_path, *start)
    assert run.returncode == 0, run.stderr
    assert ('1 of another shape: bbox_head.conv_cls.bias' in
            run.stdout + run.stderr)
    damaged('other model', work_dir / 'epoch_1.pth', path)
    error_line(run_tool(tmp_path, *start), path, 'another model')


def test_resume_needs_more_than_weights(trained, run_tool, tmp_path):
    config, work_dir, _ = trained
    path = tmp_path / 'w.pth'
    weights = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    torch.save({k: weights[k] for k in ('meta', 'state_dict')}, path)
    run = run_tool(tmp_path, 'tools/train.py', config, '--resume', path)
    error_line(run, path, 'no state of training', f'load_from={path}')


def test_last_checkpoint_is_gone(trained, run_tool, tmp_path):
    config, _, _ = trained
    work_dir = tmp_path / 'wd'
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text('/gone/epoch_9.pth')
    (work_dir / 'epoch_3.pth').touch()
    run = run_tool(tmp_path, 'tools/train.py', config, '--work-dir', 'wd',
                   '--resume')
    error_line(run, '/gone/epoch_9.pth', 'wd/last_checkpoint',
               'wd/epoch_3.pth')


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker), )


@pytest.mark.parametrize('way, force', [
    ('test', '0'), ('test', '1'), ('resume', '1'), ('load_from', '1'),
    ('pretrained', '1')])
def test_checkpoint_with_code_runs_nothing(way, force, trained, run_tool,
                                           tmp_path):
    config, work_dir, _ = trained
    marker, path = tmp_path / 'marker', tmp_path / 'evil.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1)), meta=Evil(marker)), path)
    args = dict(
        test=['tools/test.py', config, path],
        resume=['tools/train.py', config, '--resume', path],
        load_from=['tools/train.py', config, '--cfg-options',
                   f'load_from={path}'],
        pretrained=['tools/train.py', config, '--cfg-options',
                    'model.backbone.init_cfg.type=Pretrained',
                    f'model.backbone.init_cfg.checkpoint={path}'])[way]
    run = run_tool(tmp_path, *args, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=force)
    error_line(run, path, 'refused', 'mkdir', 'nothing was run')
    assert not marker.exists()

    torch.load(path, weights_only=False)  # shows that the file is dangerous
    assert marker.is_dir()


# -- disks ------------------------------------------------------------------


def test_work_dir_below_a_file(trained, run_tool, tmp_path):
    """A folder that even root cannot make."""
    (tmp_path / 'file').write_text('mine')
    for tool in (['tools/train.py'],
                 ['tools/test.py', trained[1] / 'epoch_1.pth']):
        run = run_tool(tmp_path, tool[0], trained[0], *tool[1:],
                       '--work-dir', 'file/wd')
        error_line(run, 'file/wd', 'cannot be written', '--work-dir')
    assert (tmp_path / 'file').read_text() == 'mine'


def test_full_disk_keeps_what_is_there(trained, run_tool, tmp_path):
    """A checkpoint that does not fit leaves the one before, and its name."""
    config, source, _ = trained
    work_dir = Path(shutil.copytree(source, tmp_path / 'wd'))
    good = work_dir / 'epoch_1.pth'
    (work_dir / 'last_checkpoint').write_text(str(good))
    before = hashes(work_dir)
    del before['tiny.py']  # MMEngine keeps the config of the last run here
    run = run_tool(
        tmp_path, 'tools/train.py', config, '--work-dir', work_dir,
        '--resume', '--cfg-options', 'train_cfg.max_epochs=2',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        LARGEST_FILE=str(good.stat().st_size // 2))
    error_line(run, work_dir / 'epoch_2.pth', 'make room')
    after = hashes(work_dir)
    assert {name: after.get(name) for name in before} == before
    assert not list(work_dir.glob('epoch_2*'))
    assert not list(work_dir.glob('.*part'))


def test_kept_and_best_checkpoints_are_replaced(trained, run_tool, tmp_path):
    """What is held back while saving is removed once it has succeeded."""
    config, _, _ = trained
    run = run_tool(
        tmp_path, 'tools/train.py', config, '--work-dir', 'wd',
        '--cfg-options', 'train_cfg.max_epochs=3',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'default_hooks.checkpoint.save_best=coco/bbox_mAP_50',
        'default_hooks.checkpoint.rule=less')
    assert run.returncode == 0, run.stderr
    names = sorted(p.name for p in (tmp_path / 'wd').glob('*.pth'))
    assert len(names) == 2 and names[1] == 'epoch_3.pth'
    assert names[0].startswith('best_coco_bbox_mAP_50_epoch_')
    pointer = (tmp_path / 'wd/last_checkpoint').read_text()
    assert pointer == str(tmp_path / 'wd/epoch_3.pth')
