"""What the pages say is there, is there; what they count, counts so."""
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from vovnet.models import VoVNet, arch_settings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob('*.md')), ROOT / 'configs/README.md',
         ROOT / 'projects/vovnet/README.md',
         *sorted((ROOT / 'docs').glob('*.md'))]


def table(page, first):
    """The rows of the table whose header begins with ``first``."""
    lines = iter(page.read_text().splitlines())
    next(line for line in lines if line.startswith(f'| {first}'))
    next(lines)
    for line in lines:
        if not line.startswith('|'):
            return
        yield [re.sub(r'[*`]', '', cell).strip()
               for cell in line.strip('|').split('|')]


def count(model):
    """Parameters (M) and the convolutions' multiply-adds at 224 px (G)."""
    total = 0

    def add(module, _, out):
        nonlocal total
        total += module.weight.numel() * out.shape[2] * out.shape[3]

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, 224, 224))
    return sum(p.numel() for p in model.parameters()) / 1e6, total / 1e9


def test_table_of_architectures():
    rows = list(table(ROOT / 'docs/backbone.md', '`arch`'))
    assert [row[0] for row in rows] == list(arch_settings)
    for arch, params, strided, pooled, channels in rows:
        model = VoVNet(arch, stem='strided')
        assert channels == ', '.join(map(str, model.out_channels))
        counted, macs = count(model)
        assert f'{counted:.2f}' == params
        assert f'{macs:.2f}' == strided
        assert f'{count(VoVNet(arch, stem="pooled"))[1]:.2f}' == pooled


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\((?!https?:)([^)#]*)#?([^)]*)\)',
                       page.read_text())
    gone = [link for link, part in links
            if not (page.parent / link).exists()
            or part and part not in headings(page.parent / link if link
                                             else page)]
    assert not gone


def headings(page):
    """The headings of a page, as links name them."""
    titles = re.findall(r'^#+ (.+)$', page.read_text(), re.M)
    return [re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')
            for title in titles]


def test_install_page_names_the_locked_versions():
    pins = dict(re.findall(
        r'^(torch|mm\S+)==([\d.]+)', '\n'.join(
            (ROOT / f'requirements/{name}.txt').read_text()
            for name in ('torch', 'mminstall')), re.M))
    text = (ROOT / 'docs/install.md').read_text()
    assert set(pins) == {'torch', 'mmengine', 'mmcv-lite', 'mmdet',
                         'mmpretrain'}
    for name, version in pins.items():
        found = re.findall(rf'{name}\D{{0,40}}?(\d+\.\d+\.\d+)', text)
        assert version in found, name


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_named_files_exist(page):
    """Files of this repository that commands and prose name."""
    names = re.findall(
        r'(?<![\w/.-])((?:tools|configs|docs|demo|requirements|projects)'
        r'/[\w./-]+\.(?:py|sh|md|txt|png))', page.read_text())
    # The copies that a user makes of the files in configs/custom.
    gone = {n for n in names if not (ROOT / n).exists()
            and not n.startswith('configs/custom/my_')}
    assert not gone
