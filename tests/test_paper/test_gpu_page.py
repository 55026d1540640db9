"""vovnet.paper.gpu_page on made-up results."""
import json
from pathlib import Path

import pytest
from mmengine.config import Config

from vovnet.analysis.complexity import Cost
from vovnet.benchmark import report
from vovnet.benchmark.energy import Energy
from vovnet.benchmark.inference import BenchmarkEntry, Report, Result
from vovnet.benchmark.latency import Latency
from vovnet.benchmark.memory import Memory
from vovnet.paper.gpu_page import judge, make_page
from vovnet.paper.tables import load_rows
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
STATE = dict(sm_clock_mhz=1980, temperature_c=41, power_limit_w=700.)


def save(folder, name, figures, mode=None, batch=1, dtype='fp32'):
    """A benchmark's report: FPS and J/image of networks by name."""
    results = []
    for network, (fps, joules) in figures.items():
        entry = BenchmarkEntry(
            network + (f', {mode}' if mode else ''),
            Config(cfg_text=' ', filename='a.py'), mode=mode)
        energy = joules and Energy('a counter', 'board', joules, before=STATE,
                                   after=STATE)
        seconds = batch / fps
        results.append(Result(
            entry, batch, {(batch, 3, 320, 320): 1}, Cost(1, 10**9, 1, 1, 1),
            Latency([[seconds] * 3], [[0] * 3]), Memory(10**8, None, None),
            10**13, energy))
    on = dict(date='2030-01-02', timed='all of it', batch=batch, dtype=dtype)
    report.save(Report(on, results).to_dict(),
                [str(folder / f'{name}.json')])


@pytest.fixture
def results(tmp_path):
    """Twice the paper's speed and half of its energy, but for two networks."""
    def scaled(table):
        return {row.name: (
            2 * row.figures['FPS'], row.figures.get('J/image', 0) / 2 or None)
            for row in load_rows([table])}

    (tmp_path / 'logs').mkdir()
    (tmp_path / 'steps.json').write_text(json.dumps({
        name: dict(status=status, seconds=12.3, last=last)
        for name, status, last in (
            ('table4', 'done', ''), ('operators', 'done', ''),
            ('amp', 'failed (1)', 'error: a | b'))}))
    (tmp_path / 'facts.json').write_text(json.dumps(dict(facts=dict(
        GPU='NVIDIA H100', torch='2.11.0', CUDA='13.0', meter=dict(
            driver='580.1', power_limit_w=700.)))))
    (tmp_path / 'core.json').write_text(json.dumps(dict(
        recompute=dict(ok=False, cases=180, failures=['V1-39, GN: half'],
                       worst_error_over_plain=dict(block=[1.1, 'V1-39'])),
        meter=dict(ok=True, busy_watts=600., polled_watts=610.,
                   idle_watts=70., seconds_between_steps=0.02),
        memory=dict(ok=False, error='RuntimeError: no'))))
    table4 = scaled('table4')
    table4['ResNet-50'] = 60., 2.6  # faster than VoVNet-39's 50, of 2.4 J
    table4['ResNet-101'] = 12.5, 6.
    save(tmp_path, 'table4', table4)
    save(tmp_path, 'table4_graph', table4, 'graph')
    save(tmp_path, 'table2', {**scaled('table2'), '+ bottleneck': (
        100., None)})
    six = dict.fromkeys(table4, (1000., None))
    save(tmp_path, 'batch1', six, 'bf16-graph')
    save(tmp_path, 'batch64', dict.fromkeys(six, (9000., .05)), batch=64,
         dtype='bf16 (weights and input)')
    (tmp_path / 'training.json').write_text(json.dumps(dict(
        conditions=dict(batch=16), results=[dict(
            name='VoVNet V2-39, pointwise', memory=dict(tensors=5 * 10**9),
            memory_ratio=.56, time_ratio=.97,
            latency=dict(median=.1234))])))
    (tmp_path / 'logs/demo.log').write_text(
        'x coco/bbox_mAP: 0.5000  coco/bbox_mAP_50: 0.6\n'
        'y coco/bbox_mAP: 0.6810  coco/bbox_mAP_50: 0.8710  z')
    (tmp_path / 'logs/operators.log').write_text('...\n274 passed in 30.12s')
    folder = tmp_path / 'table4'
    folder.mkdir()
    (folder / 'fps_energy.png').write_bytes(b'a picture')
    return tmp_path


def rows(text, first):
    """Cells of the table's row that begins so."""
    return [[cell.strip() for cell in line.strip('|').split('|')]
            for line in text.splitlines() if line.startswith(f'| {first} |')]


def test_the_machine_and_the_checks(results):
    text, pictures = make_page(results)
    assert text.startswith('# On a GPU\n\nNVIDIA H100, driver 580.1, power '
                           'limit 700 W, CUDA 13.0, torch 2.11.0; 2030-01-02.')
    assert 'sm clock 1980 to 1980 MHz' in text and 'temperature 41' in text
    assert rows(text, '`with_cp` against plain training') == [[
        '`with_cp` against plain training', '180 settings, 1 fail; largest '
        'error over that of plain training: block 1.10', '**no**']]
    assert '- V1-39, GN: half\n' in text
    assert rows(text, 'the demo trained')[0][1:] == [
        'mAP 0.681, mAP50 0.871 (on a CPU 0.687, 0.878)', 'yes']
    assert rows(text, 'operators, CPU and GPU')[0][1:] == [
        '274 passed in 30.12s', 'yes']
    assert rows(text, 'memory, the same network three times')[0][1:] == [
        'RuntimeError: no', '**no**']
    assert rows(text, 'amp')[0][1:] == ['failed (1)', '12', 'error: a / b']
    assert '600 W counted, 610 W polled' in text
    assert [name for _, name in pictures] == ['gpu_table4.png']
    assert '(images/gpu_table4.png)' in text
    assert 'Nothing has been measured' not in text and 'dry run on' not in text


def test_measured_the_papers_and_their_ratio(results):
    text, _ = make_page(results)
    first, backbones = rows(text, 'VoVNet-39')[0], rows(text, 'VoVNet-39')[1:]
    assert first == ['VoVNet-39', '50.0', '25', '2', '2.4', '4.8', '0.5',
                     '50', '100', '!' * 0]
    # Ratios as the issue of the paper has them: FPS 1.95, J/image 2.08.
    assert ['DenseNet-161', '1.95', '1.95', '2.08', '2.08'] in rows(
        text, 'DenseNet-161')
    assert ['ResNet-50', '0.83', '1.08', '1.08', '1.10'] in rows(
        text, 'ResNet-50')
    for said in (
            'RefineDet320, eager: VoVNet-39 is 1.95 times as fast as '
            'DenseNet-161, in the paper 1.95: as in the paper.',
            'VoVNet-39 is 0.83 times as fast as ResNet-50, in the paper '
            '1.08: the other way round here.',
            'VoVNet-39 is 4.00 times as fast as ResNet-101, in the paper '
            '1.43: the same way, more than in the paper.',
            'RefineDet320, graph: DenseNet-201 takes 2.06 times the energy '
            'of VoVNet-39, in the paper 2.06',
            'DSOD300 VoVNet-27-slim is 2.03 times as fast as DSOD300 '
            'DenseNet-67, in the paper 2.03: as in the paper.',
            'takes 4.11 times the energy of DSOD300 VoVNet-27-slim, in the '
            'paper 4.11',
            '- DenseNet-201: the same way, less than in the paper at batch 1, '
            'bf16-graph and batch 64, bf16.',
            '### Graph: folded, channels last, replayed as CUDA graphs'):
        assert said in text
    header = next(line for line in text.splitlines()
                  if line.startswith('| backbone, FPS'))
    assert 'batch 1, bf16-graph' in header and 'batch 64, bf16' in header
    assert ['VoVNet-39', '1000', '9000'] in backbones
    assert ['VoVNet-39', '0.05'] in backbones
    assert rows(text, 'VoVNet V2-39, pointwise') == [[
        'VoVNet V2-39, pointwise', '5000', '0.56', '123.4', '0.97']]


@pytest.mark.parametrize(('here', 'there', 'said'), [
    (1.5, 1.4, 'as in the paper'), (1.4, 2.0, 'the same way, less than'),
    (2.0, 1.4, 'the same way, more than'), (0.9, 1.05, 'other way round'),
    (0.5, 0.9, 'the same way, more than')])
def test_sentences(here, there, said):
    assert said in judge(here, there)


def test_a_part_of_the_results(results):
    """As a session leaves them that was ended early."""
    for file in results.glob('*.json'):
        if file.stem not in ('steps', 'facts'):
            file.unlink()
    text, _ = make_page(results)
    assert 'NVIDIA H100' in text and 'Table 4' not in text
    (results / 'facts.json').write_text('{"fac')
    with pytest.raises(UserError, match='facts.json: cannot be read'):
        make_page(results)


def test_without_results_one_line_says_so(tmp_path):
    text, pictures = make_page(tmp_path / 'none')
    assert pictures == [] and text.splitlines()[2].startswith(
        'Nothing has been measured on a GPU yet: ')
    assert '##' in text and '|' not in text
    page = (ROOT / 'docs/gpu.md').read_text()
    assert page == text or 'Nothing has been measured' not in page
