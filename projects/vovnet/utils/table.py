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


class Column(NamedTuple):
    """A figure of each result, and how it is written.

    Attributes:
        title: Heading, with the unit.
        key: Where a result has the value, such as 'latency.median', or a
            function that takes the result. The value may be None.
        form: Format specification, such as '.1f'.
        unit: What the value is divided by.
    """
    title: str
    key: str | Callable[[Mapping[str, Any]], Any]
    form: str = ''
    unit: float = 1

    def find_value(self, result: Mapping[str, Any]) -> Any:
        """Return the value in the column's unit; None if there is none."""
        if callable(self.key):
            value = self.key(result)
        else:
            value = result
            for key in self.key.split('.'):
                value = None if value is None else value.get(key)
        if value is None or self.unit == 1:
            return value
        return value / self.unit

    def write(self, result: Mapping[str, Any], missing: str = NONE) -> str:
        """Return the rounded value as text."""
        return format_number(self.find_value(result), self.form, missing)


def write_columns(columns: Sequence[Column],
                  results: Sequence[Mapping[str, Any]],
                  missing: str = NONE) -> list[list[str]]:
    """Return the cells of each column, one for each result."""
    return [[column.write(result, missing) for result in results]
            for column in columns]


def format_number(value: float | None, form: str = '.3g',
                  missing: str = NONE) -> str:
    """Round a number; ``missing`` stands for None."""
    return missing if value is None else f'{value:{form}}'


def format_markdown(rows: Sequence[Sequence[str]], align: str = '---:'
                    ) -> str:
    """Write a Markdown table, without a newline at its end.

    Args:
        rows: The header first.
        align: Alignment of all columns but the first.
    """
    header, *body = rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in (
        header, ['---', *[align] * (len(header) - 1)], *body))


def format_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Write CSV; numbers are not rounded, and None is left empty."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def format_conditions(conditions: Mapping[str, Any]) -> list[str]:
    """Write what a measurement was made on as a Markdown list."""
    return [f'- {key}: {value}' for key, value in conditions.items()]


def build_terminal_table(rows: Sequence[Sequence[str]], title: str = '',
                         width: int | None = None) -> Table:
    """Build a table for a terminal.

    Args:
        rows: The header first.
        title: Text above the table.
        width: Characters that are available: the header is wrapped, and a
            table that is still too wide is transposed.
    """
    table = Table(title=title or None)
    if width is not None:
        needed = sum(3 + max(map(len, (*wrap(header, 14), *cells)))
                     for header, *cells in zip(*rows))
        header, *body = zip(*rows) if needed > width else rows
        header = ['\n'.join(wrap(text, 14)) for text in header]
    else:
        header, *body = rows
    for i, text in enumerate(header):
        table.add_column(text, justify='right' if i else 'left',
                         overflow='fold')
    for row in body:
        table.add_row(*row)
    return table


def check_files(files: Sequence[str], overwrite: bool = False,
                option: str = '--out') -> None:
    """Refuse files for results before anything is measured.

    Args:
        files: Their folders are made.
        overwrite: Whether the files may exist.
        option: How the command line names them.

    Raises:
        UserError: If the suffix of a file is not one of :data:`FORMATS`, or
            the file exists or cannot be written.
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


def save_report(report: Mapping[str, Any], files: Sequence[str],
                write_markdown: Callable[[Mapping[str, Any]], str],
                write_csv: Callable[[Mapping[str, Any]], str] | None = None,
                indent: int | None = None) -> None:
    """Write a report into files, each in the format of its suffix.

    Args:
        report: What can be written as JSON.
        files: With suffixes of :data:`FORMATS`.
        write_markdown: Makes the text of a ``.md`` file.
        write_csv: Makes the text of a ``.csv`` file.
        indent: Of the JSON.
    """
    writers = {'.json': lambda found: json.dumps(found, indent=indent),
               '.csv': write_csv, '.md': write_markdown}
    for file in map(Path, files):
        text = writers[file.suffix](report)
        # Atomic, since a long run writes its results again and again.
        WholeFileBackend().put(text.encode(), file)
