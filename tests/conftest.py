"""What all tests have in common."""
import os
import sys
from pathlib import Path

# Several test processes share the cores; must be set before torch is loaded.
for library in ('OMP', 'OPENBLAS', 'MKL'):
    os.environ.setdefault(f'{library}_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'projects'))  # also where it is not installed
