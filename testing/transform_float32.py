"""The clause of a transform's contract that compares float32 with float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.manifolds import Interval, Line
from .report import Clause, Numbers, require_within, violated
from .transform_case import TransformCase

N_POINTS = 2000

ROUNDING = 256.0
"""Errors of values, log-derivatives and their derivatives in float32, in units of what rounding of the point, the
parameters and the image would do to them. An algorithm that loses no digits is off by some ten of these, its inverse by
up to 70; one that takes 1 - s next to s = 1 by thousands."""

AT_KNOTS = 0.01
"""Share of points that may lie next to a knot, where rounding decides on which side a derivative is taken."""

QUANTITIES = ("value", "log-derivative", "log-derivative's first derivative", "log-derivative's second derivative")


def check_float32(case: TransformCase) -> Numbers:
    """Rounding may move the result as far as rounding its input would: on every flank and at both ends alike."""
    generator = case.generator()
    x, params = _points(case, generator), _parameters(case, generator)
    numbers: dict[str, float] = {}
    for name, direction in (("forward", case.transform.forward), ("inverse", case.transform.inverse)):
        single = [g.detach().double() for g in _quantities(direction, x, params)[0]]
        exact, limits = _limits(direction, x, params)
        for order, (what, value, reference, limit) in enumerate(zip(QUANTITIES, single, exact, limits, strict=True)):
            error = case.distance(value, reference) if order == 0 else (value - reference).abs()
            excess = (error / limit).nan_to_num(nan=torch.inf)
            numbers[f"{name}, {what}"] = float(excess.max())
            message = (
                f"{name} in float32 loses digits: its {what} is farther from that of float64 than rounding of point "
                "and parameters explains. Training in float32, the default, follows wrong forces there. Look for "
                "differences of nearly equal numbers, like 1 - s next to s = 1."
            )
            # derivatives of f beyond its smoothness jump at knots
            if order <= case.transform.smoothness:
                require_within(error, ROUNDING * limit, message, x=x, params=params)
            elif float((excess > ROUNDING).double().mean()) > AT_KNOTS:
                worst = int(excess.argmax())
                violated(message, f"x = {x[worst].item():.9g}", error=float(error[worst]), limit=float(limit[worst]))
    return numbers


def _points(case: TransformCase, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Random points, and next to both ends."""
    x = case.points(N_POINTS, torch.float32, generator)
    if isinstance(case.manifold, Line):
        x[1::10] *= 10
    else:
        x[1::20] = 10 ** (-7 * x[1::20])
        x[2::20] = 1 - 10 ** (-7 * x[2::20])
        if isinstance(case.manifold, Interval):
            x[3::50], x[4::50] = 0.0, 1.0
    return x


def _parameters(case: TransformCase, generator: torch.Generator) -> Float[Tensor, "n n_params"]:
    """As conditioners give them after training: a standard deviation from the initial ones, and three."""
    initial = case.transform.initial_params()
    params = case.ordinary(N_POINTS, torch.float32, generator)
    return torch.cat([params[::2], initial + 3 * (params[1::2] - initial)])


def _quantities(
    direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, params: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Value, log-derivative, and two derivatives of that, and what they are functions of."""
    with torch.enable_grad():
        x, params = x.detach().requires_grad_(True), params.detach().requires_grad_(True)
        quantities = [*direction(x, params)]
        for _ in range(2):
            # a transform's log-derivative may not depend on the point, nor a derivative of it on the parameters
            quantities += torch.autograd.grad(
                quantities[-1].sum() + 0 * x.sum(), x, create_graph=True, materialize_grads=True
            )
        return quantities, x, params


def _limits(
    direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, params: Tensor
) -> tuple[list[Float[Tensor, "n"]], list[Float[Tensor, "n"]]]:
    """The quantities in float64, and by how much rounding of point, parameters and result to float32 changes each."""
    quantities, at, given = _quantities(direction, x.double(), params.double())
    eps = torch.finfo(torch.float32).eps
    limits = []
    for quantity in quantities:
        by_x, by_params = torch.autograd.grad(
            quantity.sum() + 0 * at.sum(), (at, given), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        # rounding of the image, seen from the point
        image = quantities[1].detach().neg().exp()
        moved = by_x.abs() * (1 + at.detach().abs() + image)
        moved = moved + (by_params.abs() * (1 + given.detach().abs())).sum(-1)
        limits.append(eps * (1 + quantity.detach().abs() + moved))
    return [quantity.detach() for quantity in quantities], limits


FLOAT32_CLAUSE: Clause[TransformCase] = Clause(
    "float32",
    "float32 gives what float64 gives, up to the rounding of its input",
    check_float32,
    "Training in float32 follows noise instead of forces. Look for differences of nearly equal numbers, such as "
    "s (1 - s) where s rounds to 1, and for values that are wrapped before they are used.",
)
