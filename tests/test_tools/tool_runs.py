"""Constants and helpers for running the tools in tests."""
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = str(ROOT / 'configs/_base_/default_runtime.py')
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


def check_error_line(run, *parts) -> None:
    """See that a tool ended with one line, which has these parts."""
    lines = run.stderr.strip().splitlines()
    assert run.returncode == 1 and len(lines) == 1, run.stderr
    assert lines[0].startswith('error: ')
    for part in parts:
        assert str(part) in lines[0]


def hashes(folder: Path) -> dict:
    """SHA-256 of every file below a folder."""
    return {str(path.relative_to(folder)):
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}
