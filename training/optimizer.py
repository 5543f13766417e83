"""Adam and its learning rate, for every training of a flow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR


def adam_with_cosine(
    parameters: Iterable[torch.nn.Parameter],
    learning_rate: float,
    steps: int,
    warm_up: int = 0,
    capturable: bool = False,
) -> dict[str, Any]:
    r"""Adam whose learning rate falls to 0 like half a cosine, as Lightning's ``configure_optimizers`` returns it.

    .. math:: \eta_t = \eta \min\left(1, \frac{t + 1}{t_\mathrm{warm}}\right) \frac{1 + \cos(\pi t / T)}{2}

    Args:
        parameters: What is trained.
        learning_rate: :math:`\eta`.
        steps: :math:`T`, steps of the whole training.
        warm_up: Steps over which the learning rate rises to its full value; 0 for none.
        capturable: Whether its steps are recorded on a GPU.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=capturable)
    if warm_up == 0:
        # by recursion, which rounds otherwise than the formula: checkpoints go on bit for bit
        schedule: CosineAnnealingLR | LambdaLR = CosineAnnealingLR(optimizer, T_max=steps)
    else:
        schedule = LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2
        )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
