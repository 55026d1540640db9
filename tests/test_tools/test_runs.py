"""The tools at work: training, testing, printing, detecting."""
import json
import pickle
import shutil
import subprocess
import sys

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from tool_runs import CLASSES, ROOT, RUNTIME, hashes

from vovnet.engine.predict import to_instances

ONE_STEP = '''
# Two images of one size, one step, no momentum: the change of each weight is
# its gradient.
train_dataloader.update(
    batch_size={batch}, batch_sampler=None,
    sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader['dataset'].update(indices=2, pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')])
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.))
param_scheduler = []
train_cfg.update(val_interval=9)
load_from = {start!r}
'''


def command(*argv, cwd):
    """Run a command as a user would, with this Python as `python`."""
    path = f'{ROOT}/.nothing:{sys.exec_prefix}/bin:/usr/bin:/bin'
    return subprocess.run(
        [*map(str, argv)], cwd=cwd, capture_output=True, text=True,
        env=dict(PATH=path, OMP_NUM_THREADS='1', PYTHON=sys.executable))


def test_training_leaves_logs_and_checkpoints(trained):
    _, work_dir, run = trained
    assert 'eta:' in run.stdout and 'loss:' in run.stdout
    assert (work_dir / 'last_checkpoint').read_text() == str(
        work_dir / 'epoch_1.pth')
    (log, ) = work_dir.glob('*/*.log')
    (scalars, ) = work_dir.glob('*/vis_data/scalars.json')
    assert 'Saving checkpoint at 1 epochs' in log.read_text()
    steps = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [s['iter'] for s in steps if 'loss' in s] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_gets_the_same_numbers(trained):
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )
    (folder, ) = trained[1].glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = [json.loads(line)['loss'] for line in
              (folder / 'scalars.json').read_text().splitlines()
              if '"loss"' in line]
    assert [e.value for e in events.Scalars('loss')] == pytest.approx(logged)


def test_testing_repeats_the_validation(trained, run_tool, tmp_path):
    config, work_dir, run = trained
    test = run_tool(tmp_path, 'tools/test.py', config,
                    work_dir / 'epoch_1.pth', '--out', 'sub/out.pkl',
                    '--show-dir', 'pictures')
    assert test.returncode == 0, test.stderr
    line = 'bbox_mAP_copypaste: '
    assert run.stdout.split(line)[1].splitlines()[0] == test.stdout.split(
        line)[1].splitlines()[0]
    with open(tmp_path / 'sub/out.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 4
    pictures = list(tmp_path.glob('work_dirs/tiny/*/pictures/*'))
    assert len(pictures) == 4
    # Truth and predictions, side by side.
    assert cv2.imread(str(pictures[0])).shape == (64, 128, 3)


def test_test_time_augmentation(trained, run_tool, tmp_path):
    config, work_dir, run = trained
    test = run_tool(tmp_path, 'tools/test.py', config,
                    work_dir / 'epoch_1.pth', '--tta')
    assert test.returncode == 0, test.stderr
    assert 'bbox_mAP_copypaste' in test.stdout


def test_options_of_training(trained, run_tool, tmp_path):
    """The learning rate is scaled by batch size / base batch size = 2/16."""
    config, _, _ = trained
    run = run_tool(
        tmp_path, 'tools/train.py', config, '--work-dir', 'here',
        '--auto-scale-lr', '--cfg-options', 'param_scheduler=[]',
        'optim_wrapper.optimizer.lr=0.8')
    assert run.returncode == 0, run.stderr
    assert 'lr: 1.0000e-01' in run.stdout
    assert (tmp_path / 'here/epoch_1.pth').is_file()


def test_resume_with_nothing_to_resume(trained, run_tool, tmp_path):
    """A job that always says --resume starts from load_from at first."""
    config, work_dir, _ = trained
    start = work_dir / 'epoch_1.pth'
    run = run_tool(tmp_path, 'tools/train.py', config, '--resume',
                   '--cfg-options', f'load_from={start}')
    assert run.returncode == 0, run.stderr
    assert f'Load checkpoint from {start}' in run.stdout
    assert 'resumed' not in run.stdout


def test_any_current_directory(tmp_path):
    """A plain process elsewhere, without PYTHONPATH or installation."""
    run = command(
        sys.executable, ROOT / 'tools/misc/print_config.py',
        'configs/_base_/default_runtime.py', '--save-path', 'a/all.py',
        '--cfg-options', 'log_level=DEBUG', cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "log_level = 'DEBUG'" in run.stdout
    saved = Config.fromfile(tmp_path / 'a/all.py')
    assert saved.log_level == 'DEBUG'
    assert saved.default_hooks == Config.fromfile(RUNTIME).default_hooks


def test_spawned_workers_have_the_operators(write_config, run_tool, tmp_path):
    """They import the main module again, and must find everything."""
    write_config(tmp_path / 'c.py', '''
env_cfg = dict(mp_cfg=dict(mp_start_method='spawn'))
train_dataloader.update(num_workers=1)
train_cfg.update(val_interval=9)
''')
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', PYTHONPATH='')
    assert run.returncode == 0, run.stderr
    assert (tmp_path / 'work_dirs/c/epoch_1.pth').is_file()


def test_two_processes_equal_one(trained, write_config, run_tool, run_two,
                                 tmp_path):
    """The gradients are those of one process on the joined batch.

    FCOS divides each loss by a mean over the processes, so that this holds
    exactly, up to the order of summation; norm_eval keeps batch norm out.
    """
    start = str(trained[1] / 'epoch_1.pth')
    weights = {}
    for name, batch in (('joined', 2), ('alone', 1), ('two', 1)):
        config = write_config(tmp_path / f'{name}.py', ONE_STEP.format(
            batch=batch, start=start))
        if name == 'two':
            run, _ = run_two(tmp_path, 'tools/train.py', config, '--work-dir',
                             'two')
        else:
            run = run_tool(tmp_path, 'tools/train.py', config, '--work-dir',
                           name, *(['--cfg-options',
                                    'train_dataloader.dataset.indices=1']
                                   if name == 'alone' else []))
        assert run.returncode == 0, run.stdout + run.stderr
        weights[name] = torch.load(
            tmp_path / name / 'epoch_1.pth', weights_only=False)['state_dict']
    before = torch.load(start, weights_only=False)['state_dict']
    trainable = [key for key in before if 'running' not in key
                 and 'num_batches' not in key]

    def gradient(name: str) -> torch.Tensor:
        return torch.cat([(before[key].double() - weights[name][key]).ravel()
                          for key in trainable])

    joined, two, alone = map(gradient, ('joined', 'two', 'alone'))
    # float32 weights near 1 hold a change to 6e-8.
    assert (two - joined).norm() < 1e-6 * joined.norm()
    assert (alone - joined).norm() > 1e-2 * joined.norm()
    for key in set(before) - set(trainable):
        if 'running' in key:
            assert torch.equal(weights['two'][key], before[key])


def test_distributed_testing(trained, tmp_path):
    config, work_dir, run = trained
    test = command('bash', ROOT / 'tools/dist_test.sh', config,
                   work_dir / 'epoch_1.pth', '2', cwd=tmp_path)
    assert test.returncode == 0, test.stdout + test.stderr
    line = 'bbox_mAP_copypaste: '
    assert run.stdout.split(line)[1].splitlines()[0] == test.stdout.split(
        line)[1].splitlines()[0]


def test_distributed_error(write_config, tmp_path):
    """One process speaks for both, and torchrun adds no traceback."""
    write_config(tmp_path / 'c.py', data=tmp_path / 'nowhere')
    run = command('bash', ROOT / 'tools/dist_train.sh', 'c.py', '2',
                  cwd=tmp_path)
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    (line, ) = [ln for ln in run.stderr.splitlines()
                if ln.startswith('error: ')]
    assert line.startswith('error: train_dataloader: annotation file ')
    assert str(tmp_path / 'nowhere') in line


def test_slurm_scripts_pass_everything_on(tmp_path):
    """With a stand-in for srun that prints its arguments, one a line."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    for tool, fourth, passed in (
            ('train', 'my dir', '--work-dir=my dir'),
            ('test', 'a b.pth', 'a b.pth')):
        run = subprocess.run(
            ['bash', str(ROOT / f'tools/slurm_{tool}.sh'), 'part', 'job',
             'c.py', fourth, '--cfg-options', 'a=b c'],
            capture_output=True, text=True, check=True,
            env=dict(PATH=f'{tmp_path}:/usr/bin:/bin', GPUS='4',
                     GPUS_PER_NODE='2', SRUN_ARGS='--time=1 --qos=x'))
        lines = run.stdout.splitlines()
        assert lines[:3] == ['-p', 'part', '--job-name=job']
        assert {'--ntasks=4', '--ntasks-per-node=2', '--gres=gpu:2',
                '--cpus-per-task=5', '--time=1', '--qos=x', 'c.py', passed,
                '--launcher=slurm', 'a=b c'} <= set(lines)


@pytest.mark.parametrize('script', [
    'dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_scripts_say_what_they_need(script, tmp_path):
    run = command('bash', ROOT / f'tools/{script}.sh', 'one', cwd=tmp_path)
    assert run.returncode == 2 and run.stderr.startswith('usage: ')


# -- the image demo -----------------------------------------------------


@pytest.fixture
def images(shapes, tmp_path):
    """Images of one name in two folders, one of them broken."""
    folder = tmp_path / 'images'
    for name in ('a/1.jpg', 'b/1.jpg', 'b/2.jpg'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / 'val/val_000001.jpg', folder / name)
    pixels = cv2.imread(str(folder / 'a/1.jpg'))
    cv2.imwrite(str(folder / 'b/1.bmp'), pixels)
    (folder / 'notes.txt').write_text('not an image')
    return folder


def test_image_demo(images, trained, run_tool, tmp_path):
    config, work_dir, _ = trained
    before = hashes(images)
    for name, batch in (('one', 1), ('three', 3)):
        run = run_tool(tmp_path, 'demo/image_demo.py', images, config,
                       work_dir / 'epoch_1.pth', '--out-dir', name,
                       '--score-thr', '0.01', '--batch-size', batch)
        assert run.returncode == 0, run.stderr
    assert hashes(images) == before
    assert sorted(hashes(tmp_path / 'one')) == [
        f'preds/{n}.json' for n in ('a/1.jpg', 'b/1.bmp', 'b/1.jpg',
                                    'b/2.jpg')
    ] + [f'vis/{n}' for n in ('a/1.jpg', 'b/1.bmp.png', 'b/1.jpg',
                              'b/2.jpg')]
    for name in ('a/1.jpg', 'b/2.jpg'):
        one, three = (json.loads(
            (tmp_path / out / f'preds/{name}.json').read_text())
            for out in ('one', 'three'))
        assert one['image'] == str(images / name)
        assert (one['height'], one['width']) == (64, 64)
        assert one['instances'] and len(one['instances']) == len(
            three['instances'])
        for found, again in zip(one['instances'], three['instances']):
            assert found['class'] == CLASSES[found['label']]
            assert 0.01 <= found['score'] <= 1
            assert found['bbox'] == pytest.approx(again['bbox'], abs=1e-3)
        scores = [found['score'] for found in one['instances']]
        assert scores == sorted(scores, reverse=True)
    drawn = cv2.imread(str(tmp_path / 'one/vis/a/1.jpg'))
    assert drawn.shape == (64, 64, 3)


def test_image_demo_goes_on_after_a_broken_image(images, trained, run_tool,
                                                 tmp_path):
    config, work_dir, _ = trained
    broken = images / 'b/1.jpg'
    broken.write_bytes(broken.read_bytes()[:300])
    (images / 'a/0.png').touch()
    # Of this, resizing would leave nothing.
    cv2.imwrite(str(images / 'c.png'), np.zeros((500, 1, 3), np.uint8))
    run = run_tool(tmp_path, 'demo/image_demo.py', f'{images}/**/*.[jp]*g',
                   config, work_dir / 'epoch_1.pth', '--batch-size', '2')
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert f'{broken}: cannot be read' in run.stderr
    (line, ) = [ln for ln in run.stderr.splitlines() if 'error: ' in ln]
    assert '3 of 5 images' in line and str(images / 'a/0.png') in line
    assert [p.name for p in sorted(tmp_path.glob('outputs/vis/*/*'))] == [
        '1.jpg', '2.jpg']


def test_image_demo_overwrites_no_input(images, trained, run_tool, tmp_path):
    config, work_dir, _ = trained
    folder = tmp_path / 'vis'
    images.rename(folder)
    before = hashes(folder)
    run = run_tool(tmp_path, 'demo/image_demo.py', folder, config,
                   work_dir / 'epoch_1.pth', '--out-dir', '.')
    assert run.returncode == 1
    assert 'would be overwritten' in run.stderr
    assert hashes(folder) == before
    run = run_tool(tmp_path, 'demo/image_demo.py', 'nowhere/*.jpg', config,
                   work_dir / 'epoch_1.pth')
    assert run.returncode == 1
    assert 'error: nowhere/*.jpg: no images there' in run.stderr


def test_masks_are_written_as_run_lengths():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 4:, :] = True
    sample = DetDataSample(pred_instances=InstanceData(
        labels=torch.tensor([1, 0]), scores=torch.tensor([.25, .5]),
        bboxes=torch.tensor([[2., 1, 5, 3], [0, 4, 8, 6]]), masks=masks))
    found = json.loads(json.dumps(to_instances(sample, CLASSES)))
    assert [item['class'] for item in found] == ['circle', 'square']
    for item, mask in zip(found, masks.flip(0)):
        assert np.array_equal(coco_mask.decode(item['mask']), mask.numpy())
