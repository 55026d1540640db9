"""A small data set, a small detector, and a way to run the tools on them."""
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tool_runs import CLASSES, ROOT, RUNTIME

from vovnet.datasets import make_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """12 training and 4 validation images of 64 px in COCO's layout."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, num_train=12, num_val=4, size=64, seed=1)
    return root


@pytest.fixture(scope='session')
def shapes_voc(tmp_path_factory) -> Path:
    """The same kind of images in VOC's layout."""
    root = tmp_path_factory.mktemp('data') / 'shapes_voc'
    make_shapes(root, num_train=6, num_val=3, size=64, seed=1, layout='voc')
    return root


CONFIG = '''
_base_ = {runtime!r}
data_root = {data!r}
metainfo = dict(classes={classes!r})
# FCOS, because the sums in its loss are normalised over all processes.
model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3,
        pad_size_divisor=32),
    backbone=dict(
        type='VoVNet', out_indices=(1, 2), norm_eval=True,
        arch=dict(
            stem_channels=(8, 8, 8), stage_channels=(8, 8, 8),
            aggregated_channels=(16, 16, 16), num_blocks=(1, 1, 1),
            num_layers=2)),
    neck=dict(
        type='FPN', in_channels=[16, 16], out_channels=16, num_outs=2),
    bbox_head=dict(
        type='FCOSHead', num_classes=5, in_channels=16, feat_channels=16,
        stacked_convs=1, strides=[8, 16],
        regress_ranges=((-1, 32), (32, 1e8)),
        norm_cfg=dict(type='GN', num_groups=4)),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.01,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=[(48, 48), (80, 80)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler'),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset', data_root=data_root, metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', data_root=data_root, metainfo=metainfo,
        ann_file='annotations/instances_val.json', test_mode=True,
        data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', metric='bbox',
    ann_file=data_root + '/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=8)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=7)
'''


@pytest.fixture(scope='session')
def write_config(shapes):
    """Writes the config above, with lines added, to a path."""

    def write(path: Path, extra: str = '', data: Path = shapes,
              runtime: str = RUNTIME) -> Path:
        path.write_text(CONFIG.format(
            runtime=runtime, data=str(data), classes=CLASSES) + extra)
        return path

    return write


@pytest.fixture(scope='session')
def run_processes():
    """Runs a tool of the checkout in one process for each environment."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name('fork_server.py'))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # On the CPU, whatever else the machine has.
        env={**os.environ, 'PYTHONPATH': str(ROOT / 'projects'),
             'CUDA_VISIBLE_DEVICES': ''})
    while server.stdout.readline().strip() not in ('ready', ''):
        pass

    def run(cwd: Path, argv: list, envs: list) -> list:
        argv = [str(ROOT / argv[0]), *map(str, argv[1:])]
        files = [(cwd / f'.stdout{i}', cwd / f'.stderr{i}')
                 for i in range(len(envs))]
        server.stdin.write(json.dumps([
            dict(argv=argv, cwd=str(cwd), env=env, stdout=str(out),
                 stderr=str(err))
            for env, (out, err) in zip(envs, files)]) + '\n')
        server.stdin.flush()
        done = [
            subprocess.CompletedProcess(
                argv, status, out.read_text(), err.read_text())
            for status, (out, err) in zip(
                json.loads(server.stdout.readline()), files)]
        for one in done:
            # Other libraries' future is no matter of whoever runs a tool.
            assert not re.search(
                # Not -Wno-deprecated of how torch was compiled.
                r'(Deprecation|Future|Syntax)Warning|(?<![-=\w])deprecat',
                one.stdout + one.stderr)
        return done

    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope='session')
def run_tool(run_processes):
    """Runs a tool of the checkout in a folder, as on a command line."""

    def run(cwd: Path, tool: str, *args, **env) -> subprocess.CompletedProcess:
        done, = run_processes(cwd, [tool, *args], [env])
        return done

    return run


@pytest.fixture(scope='session')
def run_two(run_processes):
    """Runs a tool in two processes of one job, as torchrun starts them."""

    def run(cwd: Path, tool: str, *args) -> list:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        return run_processes(cwd, [tool, *args, '--launcher', 'pytorch'], [
            dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2',
                 MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            for rank in '01'])

    return run


@pytest.fixture(scope='session')
def trained(tmp_path_factory, write_config, run_tool):
    """One epoch of training: (config, work dir, what the tool printed)."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py')
    done = run_tool(folder, 'tools/train.py', 'tiny.py')
    assert done.returncode == 0, done.stderr
    return config, folder / 'work_dirs/tiny', done
