"""Tables of results: in Markdown, CSV and the terminal, and their files."""
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from rich.table import Table

from .atomic_file import WholeFileBackend
from .errors import UserError

NONE = 'n/a'
FORMATS = ('.json', '.csv', '.md')

Rows = Sequence[Sequence[Any]]  # the header first
Report = Mapping[str, Any]  # as in its JSON file


class Column(NamedTuple):
    """A figure of each result, and how it is written.

    Attributes:
        title: Heading, with the unit.
        key: Where a result has the value, such as 'latency.median'.
        form: Format specification, such as '.1f'.
        unit: What the value is divided by.
    """
    title: str
    key: str
    form: str = ''
    unit: float = 1

    def find_value(self, result: Mapping[str, Any]) -> Any:
        """Return the value in the column's unit; None if there is none."""
        value = result
        for key in self.key.split('.'):
            value = None if value is None else value.get(key)
        if value is None or self.unit == 1:
            return value
        return value / self.unit


def format_number(value: float | None, form: str = '.3g',
                  missing: str = NONE) -> str:
    """Round a number; ``missing`` stands for None."""
    return missing if value is None else f'{value:{form}}'


def format_columns(columns: Sequence[Column],
                   results: Sequence[Mapping[str, Any]],
                   missing: str = NONE) -> list[list[str]]:
    """Return the rounded values of each column, one for each result."""
    return [[format_number(column.find_value(result), column.form, missing)
             for result in results] for column in columns]


def format_markdown(rows: Rows, align: str = '---:') -> str:
    """Write a Markdown table; ``align`` is for all columns but the first."""
    header, *body = rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in (
        header, ['---', *[align] * (len(header) - 1)], *body))


def format_page(rows: Rows, conditions: Mapping[str, Any],
                legend: Sequence[str], remarks: Sequence[str] = ()) -> str:
    """Write a Markdown table with what has to be read with it."""
    conditions = [f'- {key}: {value}' for key, value in conditions.items()]
    parts = [format_markdown(rows)], remarks, conditions, legend
    return '\n'.join(line for part in parts if part for line in (*part, ''))


def format_csv(rows: Rows) -> str:
    """Write CSV; numbers are not rounded, and None is left empty."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def build_terminal_table(rows: Rows, title: str | None = None,
                         width: int | None = None) -> Table:
    """Build a table for a terminal.

    With a ``width``, in characters, the header is wrapped, and a table that
    is still too wide is transposed.
    """
    if width is not None:
        needed = sum(3 + max(map(len, (*wrap(header, 14), *cells)))
                     for header, *cells in zip(*rows))
        header, *rows = zip(*rows) if needed > width else rows
        header = ['\n'.join(wrap(text, 14)) for text in header]
    else:
        header, *rows = rows
    table = Table(title=title)
    for i, text in enumerate(header):
        table.add_column(text, justify='right' if i else 'left',
                         overflow='fold')
    for row in rows:
        table.add_row(*row)
    return table


def check_files(files: Sequence[str], overwrite: bool = False,
                option: str = '--out') -> None:
    """Refuse files for results before anything is measured; make folders.

    Raises:
        UserError: If the suffix of a file is not one of :data:`FORMATS`, or
            the file exists and ``overwrite`` is false, or cannot be written.
    """
    for file in map(Path, files):
        if file.suffix not in FORMATS:
            raise UserError(f'{option} {file}: unknown format; end the name '
                            f'in {", ".join(FORMATS)}')
        exists = file.exists()
        if exists and not overwrite:
            raise UserError(f'{option} {file}: exists already; choose '
                            'another name, or add --overwrite')
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, 'a'):
                pass
            if not exists:
                file.unlink()
        except OSError as error:
            raise UserError(f'{option} {file}: {error.strerror}; choose '
                            'another place') from error


def save_report(report: Report, files: Sequence[str],
                write_markdown: Callable[[Report], str],
                write_csv: Callable[[Report], str] | None = None,
                indent: int | None = None) -> None:
    """Write a report into files, each in the format of its suffix."""
    writers = {'.json': lambda found: json.dumps(found, indent=indent),
               '.csv': write_csv, '.md': write_markdown}
    for file in map(Path, files):
        text = writers[file.suffix](report)
        # Atomic, since a long run writes its results again and again.
        WholeFileBackend().put(text.encode(), file)
