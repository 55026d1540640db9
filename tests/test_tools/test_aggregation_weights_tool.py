"""tools/analysis_tools/aggregation_weights.py on the command line."""
import csv

import cv2
import pytest
import torch
from tool_runs import ROOT

from vovnet.engine.build import build_network
from vovnet.engine.config import load_config

TOOL = 'tools/analysis_tools/aggregation_weights.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, write_config):
    """A detector; its aggregating convolutions take source s with s + 1."""
    folder = tmp_path_factory.mktemp('weights')
    config = write_config(folder / 'tiny.py')
    network = build_network(load_config(str(config)))
    for name in network.backbone.stage_names:
        block = getattr(network.backbone, name).block1
        weight = block.aggregation.conv.weight.data
        widths = [weight.shape[1] - 16, 8, 8]
        for value, part in enumerate(weight.split(widths, dim=1), 1):
            part.fill_(-value)
    torch.save(dict(state_dict=network.state_dict()), folder / 'tiny.pth')
    torch.save(dict(state_dict=network.neck.state_dict()),
               folder / 'neck.pth')
    return folder


def test_picture_and_numbers(run_tool, folder):
    run = run_tool(folder, TOOL, 'tiny.py', 'tiny.pth', '--out',
                   'out/weights.png', '--csv', 'out/weights.csv')
    assert run.returncode == 0, run.stderr
    assert 'out/weights.png: 3 blocks' in run.stdout
    with open(folder / 'out/weights.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['source'], float(row['value']), float(row['normalised']))
            for row in rows if row['layer'] == 'aggregation'
            and row['block'] == 'backbone.stage3.block1'] == [
        ('0', 1, 1 / 3), ('1', 2, 2 / 3), ('2', 3, 1)]
    # The darkest red of jet stands for 1: in each of the three panels a
    # diagonal of three cells that touch at their corners.
    picture = cv2.imread(str(folder / 'out/weights.png'))
    red = (picture == (0, 0, 127)).all(axis=2).astype('uint8')
    count, _, stats, _ = cv2.connectedComponentsWithStats(red)
    left, top, width, height, area = stats[1:count][
        stats[1:count, cv2.CC_STAT_AREA] > 5000].T
    assert len(area) == 3
    assert area / (width * height) == pytest.approx([1 / 3] * 3, rel=0.05)
    assert (width > 250).all() and (height > 150).all()


def test_backbone_alone(run_tool, folder):
    run = run_tool(
        folder, TOOL, 'tiny.py', 'tiny.pth', '--part', 'backbone',
        '--cfg-options', 'model.neck.out_channels=32',
        'model.bbox_head.in_channels=32', '--csv', 'backbone.csv')
    assert run.returncode == 0, run.stderr
    assert (folder / 'aggregation_weights.png').stat().st_size
    with open(folder / 'backbone.csv', newline='') as file:
        assert {row['block'] for row in csv.DictReader(file)} == {
            'stage2.block1', 'stage3.block1', 'stage4.block1'}


@pytest.mark.parametrize('args, parts', [
    (['no.py', 'tiny.pth'], ['no.py', 'no such file']),
    (['tiny.py', 'no.pth'], ['no.pth', 'no such file']),
    (['tiny.py', 'neck.pth'], ['neck.pth', 'is of another model']),
    (['tiny.py', 'tiny.pth', '--cfg-options', 'model.neck.out_channels=32'],
     ['tiny.pth', 'is of another model', '--part backbone']),
    ([ROOT / 'configs/_base_/default_runtime.py', 'tiny.pth'],
     ['no model.backbone']),
    (['tiny.py', 'tiny.pth', '--out', 'weights.txt'],
     ['--out weights.txt', '.png']),
    (['tiny.py', 'tiny.pth', '--out', 'tiny.py/weights.png'],
     ['tiny.py', '--out']),
    (['tiny.py', 'tiny.pth', '--csv', 'tiny.py/weights.csv'],
     ['tiny.py', '--csv']),
    (['tiny.py', 'tiny.pth', '--csv', '.'], ['.', 'a file is expected'])])
def test_mistakes_end_with_one_line(args, parts, run_tool, folder):
    fails_with(run_tool(folder, TOOL, *args), parts)


def test_network_without_such_blocks(run_tool, folder):
    config = folder / 'resnet.py'
    config.write_text("model = dict(type='mmdet.ResNet', depth=18)\n"
                      "model = dict(backbone=model)\n")
    network = build_network(load_config(str(config)), 'backbone')
    torch.save(network.state_dict(), folder / 'resnet.pth')
    fails_with(run_tool(folder, TOOL, 'resnet.py', 'resnet.pth', '--part',
                        'backbone'), ['ResNet', 'no OSA block'])


def fails_with(run, parts):
    assert run.returncode == 1, run.stdout + run.stderr
    assert 'Traceback' not in run.stdout + run.stderr
    line, = (text for text in run.stderr.splitlines()
             if text.startswith('error: '))
    assert all(part in line for part in parts), line
