"""The hooks of :mod:`vovnet.engine` by the name that saved configs have."""
from .engine import *  # noqa: F403
