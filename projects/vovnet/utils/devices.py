"""Devices by name."""
from collections.abc import Sequence

import torch

from .errors import UserError


def find_device(name: str, kinds: Sequence[str] = ()) -> torch.device:
    """Find the device that ``--device`` names, and make it the current one.

    Args:
        name: As torch names it.
        kinds: The accepted types of devices; any by default.

    Returns:
        The device, with its index if it is a GPU.

    Raises:
        UserError: If the device is missing or of another type.
    """
    try:
        device = torch.device(name)
        if device.type == 'cuda':
            device = torch.device('cuda', device.index or 0)
            # Streams, events and timers that name no device take this one.
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except Exception as error:  # its type depends on the device
        reason = str(error).strip().split('\n')[0]
        raise UserError(f'--device {name}: {reason.split(". ")[0]}; use '
                        '--device cpu or a device that torch can see'
                        ) from error
    if kinds and device.type not in kinds:
        raise UserError(f'--device {name}: only {" and ".join(kinds)} are '
                        'measured')
    return device
