"""Where generated sets are written, and what is never touched."""
import errno
import re
from functools import partial

import pytest

from vovnet.datasets import make_shape_folders, make_shapes
from vovnet.datasets.generated_set import RECORD, write_once
from vovnet.utils.errors import UserError

SETTINGS = dict(generator='vovnet.datasets.make_numbers', count=3, seed=0)


def list_files(settings):
    return {RECORD, *(f'numbers/{i}' for i in range(settings['count']))}


def make(root, force=False, error=None, **changes):
    """Write a set of small files, or fail after the second."""
    settings = SETTINGS | changes

    def write(folder):
        for i in range(settings['count']):
            if error and i == 2:
                raise error
            (folder / f'numbers/{i}').write_text(f'{settings["seed"]} {i}')

    return write_once(root, settings, list_files, write, force)


def snapshot(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes()
            for path in folder.rglob('*')}


def test_a_second_call_has_nothing_to_do(tmp_path):
    root = tmp_path / 'deep/er/set'
    assert make(root) is True
    times = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert len(times) == 1 + 3 + 1
    assert make(str(root)) is False
    assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == times
    assert [p.name for p in root.parent.iterdir()] == ['set']


def test_the_folder_gets_ordinary_permissions(tmp_path):
    (tmp_path / 'plain').mkdir()
    make(tmp_path / 'set')
    assert ((tmp_path / 'set').stat().st_mode
            == (tmp_path / 'plain').stat().st_mode)


def test_an_empty_folder_is_used(tmp_path):
    assert make(tmp_path)
    assert (tmp_path / 'numbers/2').is_file()


def test_another_set_is_replaced_only_by_force(tmp_path):
    root = tmp_path / 'set'
    make(root)
    before = snapshot(root)
    with pytest.raises(UserError, match='seed is 0, not 7.*--force') as e:
        make(root, seed=7, count=2)
    assert str(root) in str(e.value)
    assert snapshot(root) == before
    assert make(root, force=True, seed=7, count=2)
    make(tmp_path / 'fresh', seed=7, count=2)
    assert snapshot(root) == snapshot(tmp_path / 'fresh') != before


def test_a_missing_file_is_named_and_restored(tmp_path):
    make(tmp_path)
    before = snapshot(tmp_path)
    (tmp_path / 'numbers/1').unlink()
    with pytest.raises(UserError, match='numbers/1 is missing'):
        make(tmp_path)
    assert make(tmp_path, force=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('record', [
    None, '{}', '[]', 'nonsense', '{"generator": "vovnet.datasets.other"}'])
@pytest.mark.parametrize('force', [False, True])
def test_other_folders_are_never_touched(tmp_path, force, record):
    root = tmp_path / 'set'
    root.mkdir()
    (root / 'thesis.txt').write_text('years of work')
    if record is not None:
        (root / RECORD).write_text(record)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=re.escape(str(root)) +
                       ' .*make_numbers did not make'):
        make(root, force)
    assert snapshot(tmp_path) == before


def test_a_file_put_into_a_set_is_never_touched(tmp_path):
    root = tmp_path / 'set'
    make(root)
    (root / 'numbers/notes.txt').write_text('years of work')
    assert make(root) is False
    before = snapshot(tmp_path)
    for force in (False, True):
        with pytest.raises(UserError, match='numbers/notes.txt, which '
                           'make_numbers did not make'):
            make(root, force, seed=1)
    assert snapshot(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path):
    file = tmp_path / 'set'
    file.write_text('years of work')
    with pytest.raises(UserError, match='is a file'):
        make(file, force=True)
    with pytest.raises(UserError, match='cannot write'):
        make(file / 'below')
    assert file.read_text() == 'years of work'


@pytest.mark.parametrize('existing', [False, True])
@pytest.mark.parametrize(('error', 'raised', 'said'), [
    (KeyboardInterrupt(), KeyboardInterrupt, ''),
    (OSError(errno.ENOSPC, 'No space left on device'), UserError,
     'No space left.*make room')])
def test_a_failure_leaves_nothing(tmp_path, existing, error, raised, said):
    if existing:
        make(tmp_path / 'set')
    before = snapshot(tmp_path)
    with pytest.raises(raised, match=said):
        make(tmp_path / 'set', force=True, error=error, seed=1)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('make', [
    partial(make_shapes, layout='coco'), partial(make_shapes, layout='voc'),
    make_shape_folders])
def test_generators_know_their_files(tmp_path, make):
    settings = dict(num_train=2, num_val=1, size=32, classes=('star', 'cross'))
    assert make(tmp_path, **settings) is True
    assert make(tmp_path, **settings) is False
    files = sorted(file for file, content in snapshot(tmp_path).items()
                   if content and file.name != RECORD)
    for file in files:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).unlink()
        with pytest.raises(UserError, match=re.escape(f'{file} is missing')):
            make(tmp_path, **settings)
        (tmp_path / file).write_bytes(content)
    assert make(tmp_path, **settings, seed=1, force=True)
