"""The hooks of :mod:`vovnet.engine`, under the name in saved configs."""
from .engine import *  # noqa: F403
