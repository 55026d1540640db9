"""The model zoo as a page: tables from the metafiles.

These keys are read beside those that mim reads: ``License``,
``Normalization``, ``Weights Format``, ``Weights Usage``, ``Caffe Weights``,
``Source`` with ``Table`` or ``Section``, ``Note``, and the costs that a source
states. A model without ``Weights`` has ``Weights Status``, in words, and
``Starting Weights``: what the config starts from, then what else it can start
from, each with ``Name``, ``License``, ``Source`` and the ``Options`` that it
takes. A model without ``Results`` has ``Published Result: none``.
"""
import os
import re
from collections.abc import Mapping
from typing import Any

from ..utils.errors import UserError
from ..utils.table import format_markdown
from .metafiles import read_index

BEGIN = '<!-- begin: written by tools/misc/make_model_zoo.py -->'
END = '<!-- end -->'

COLUMNS = ('config', 'published result', 'cost', 'weights', 'images',
           'source')


def update_page(page: str, index: str) -> str:
    """Replace what stands between :data:`BEGIN` and :data:`END` in a page.

    Args:
        page: Text of the page.
        index: Path of ``model-index.yml``. Links to configs are relative to a
            folder beside it.

    Returns:
        The new text.

    Raises:
        UserError: If the page lacks a mark or a metafile is invalid.
    """
    found = re.fullmatch(
        f'(.*{re.escape(BEGIN)}\n).*({re.escape(END)}\n.*)', page, re.DOTALL)
    if not found:
        raise UserError(f'the page needs a line {BEGIN} and, below it, a line '
                        f'{END}; put them where the tables belong')
    tables = [format_collection(collection, models)
              for collection, models in read_index(index)]
    return f'{found[1]}\n' + '\n\n'.join(tables) + f'\n\n{found[2]}'


def format_collection(collection: Mapping[str, Any],
                      models: list[Mapping[str, Any]]) -> str:
    """Lay out a collection's title, paper and models as Markdown."""
    paper = collection.get('Paper', {})
    lines = [f'## {collection["Name"]}', '',
             f'[{paper["Title"]}]({paper["URL"]})' if paper else '', '',
             format_markdown([COLUMNS, *map(format_row, models)], align='---')]
    return '\n'.join(lines)


def format_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a model, in the order of :data:`COLUMNS`."""
    metadata = model.get('Metadata') or {}
    name = f'[{model["Name"]}](../{model["Config"]})'
    if note := metadata.get('Note'):
        name += f' ({note})'
    results = _format_results(model.get('Results') or ()) or metadata.get(
        'Published Result')
    cells = (name, results, _format_cost(metadata),
             _format_weights(model.get('Weights'), metadata),
             metadata.get('Normalization', ''), _format_source(metadata))
    return tuple(cell or '–' for cell in cells)


def _format_results(results: list[Mapping[str, Any]]) -> str:
    """Name the main figures, without those of thresholds and sizes."""
    by_dataset: dict[str, list[str]] = {}
    for result in results:
        by_dataset.setdefault(result['Dataset'], []).extend(
            f'{value} {metric}' for metric, value in result['Metrics'].items()
            if not re.search(r'AP([sml]|\d+)$', metric))
    return '; '.join(f'{dataset}: {", ".join(figures)}'
                     for dataset, figures in by_dataset.items())


def _format_cost(metadata: Mapping[str, Any]) -> str:
    figures = [f'{time["value"]} ms on {time["hardware"]}'.replace(
        'on not stated', '(hardware not stated)')
        for time in metadata.get('inference time (ms/im)', ())]
    for key, unit in (('FPS', 'FPS'), ('Energy (J/im)', 'J/image'),
                      ('Memory (MB)', 'MB'), ('Parameters (M)', 'M params'),
                      ('Multiply-adds (G)', 'G multiply-adds'),
                      ('Training Memory (GB)', 'GB in training')):
        if key in metadata:
            figures.append(f'{metadata[key]} {unit}')
    if hardware := metadata.get('Hardware'):
        figures.append(f'on {hardware.partition(",")[0]}')
    return ', '.join(figures)


def _format_weights(url: str | None, metadata: Mapping[str, Any]) -> str:
    if url:
        name = metadata.get('Checkpoint') or os.path.basename(
            url.partition('?')[0])
        return ', '.join(filter(None, (
            f'[{name}]({url})', metadata['Weights Format'],
            metadata.get('Weights Usage'), metadata['License'])))
    status = metadata.get('Weights Status', '')
    if caffe := metadata.get('Caffe Weights'):
        status += f' ([Caffe]({caffe}))'
    first, *others = [_format_start(each) for each in metadata.get(
        'Starting Weights', ())] or ['']
    return '; '.join(filter(None, (
        status, first and f'starts from {first}',
        others and f'can start from {", ".join(others)}')))


def _format_start(weights: Mapping[str, str]) -> str:
    """Name weights to start from, their license and their options."""
    if 'Source' not in weights:
        return f'{weights["Name"]} weights'
    name = os.path.basename(weights['Name']) if weights['Name'].startswith(
        'http') else weights['Name']
    return f'[{name}]({weights["Source"]}), {weights["License"]}' + (
        f', with `{weights["Options"]}`' if 'Options' in weights else '')


def _format_source(metadata: Mapping[str, Any]) -> str:
    url = metadata.get('Source')
    if not url:
        return ''
    for kind in ('Table', 'Section'):
        if kind in metadata:
            return f'[paper, {kind} {metadata[kind]}]({url})'
    if found := re.match(r'https://github\.com/[\w-]+/([\w-]+)', url):
        return f'[{found[1]}]({url})'
    return f'[source]({url})'
