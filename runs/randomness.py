"""Which frames are trained on, in which order, and which are held out; all of it follows from one seed."""

from __future__ import annotations

import numpy as np
import torch


def generator(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on all of the numbers."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))
