"""The clauses of a transform's contract that need higher derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck

from ..core.manifolds import Circle, Interval
from ..core.transforms import Transform
from .report import Clause, Numbers, require_within, violated
from .smoothness import derivative_chain, worst_jumps
from .transform_case import DTYPES, TransformCase
from .transform_float32 import FLOAT32_CLAUSE

HIGHEST_ORDER = 4
"""Derivatives of C-infinity transforms are tested up to this order: force matching and one more."""

N_CURVES = 6
N_CELLS = 1024
"""Cells of the grids on which derivatives are looked at."""

AGREED = 1e-6
"""Relative error against finite differences at which no shorter step is tried."""

DISAGREED = {False: 1e-3, True: 3e-2}
"""Relative errors at which first, and second, derivatives are wrong: on steep flanks second ones lose digits."""

STEPS = (2.0**-14, 2.0**-17, 2.0**-20, 2.0**-23, 2.0**-26)
"""Steps of finite differences at many points: long ones are far from rounding, short ones resolve steep corners."""

STRIDE = 3
"""One in this many elements of the structured grid is compared with finite differences."""

REACH = 14.0
"""Up to which single parameters go from their initial values: beyond the largest that trained conditioners give."""


def check_gradients(case: TransformCase) -> Numbers:
    _compare_with_differences(case, gradcheck, "first")
    return _compare_everywhere(case, second=False)


def check_second_gradients(case: TransformCase) -> Numbers:
    _compare_with_differences(case, gradgradcheck, "second")
    return _compare_everywhere(case, second=True)


def _compare_everywhere(case: TransformCase, second: bool) -> Numbers:
    """Derivatives along random directions of points and parameters, at places and corners of every kind.

    First ones are those of the image and the log-derivative, second ones those of the log-derivative's slope in x.
    """
    x, params = (value[::STRIDE] for value in case.structured(torch.float64))
    if isinstance(case.manifold, Interval):
        # off the ends by the stencil
        x = 0.001 + 0.998 * x
    generator = case.generator()
    of_x = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    of_params = torch.randn(params.shape, generator=generator, dtype=x.dtype) / math.sqrt(max(params.shape[1], 1))
    numbers = {}
    for direction in (case.transform.forward, case.transform.inverse):

        def values(
            x: Tensor, params: Tensor, direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = direction
        ) -> dict[str, Tensor]:
            if not second:
                return dict(zip(("image", "log-derivative"), direction(x, params), strict=True))
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_(True)
                # a constant does not depend on x
                log_derivative = direction(x, params)[1] + 0 * x
                return {"slope of the log-derivative": derivative_chain(log_derivative, x, 1)[0]}

        with torch.enable_grad():
            leaves = (x.clone().requires_grad_(True), params.clone().requires_grad_(True))
            at = values(*leaves)
            exact, scale = {}, {}
            for name, value in at.items():
                value = value if value.requires_grad else value + 0 * leaves[0]
                by_x, by_params = torch.autograd.grad(
                    value.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                parts = torch.cat([(by_x * of_x).unsqueeze(-1), by_params * of_params], dim=-1).detach()
                exact[name] = parts.sum(-1)
                # parts of either sign may cancel
                scale[name] = 1 + parts.abs().sum(-1)
        errors = {name: torch.full_like(value, math.inf).detach() for name, value in at.items()}
        for step in STEPS:
            # shorter steps only where longer ones do not agree
            rows = (torch.stack([*errors.values()]) > AGREED).any(0).nonzero().squeeze(1)
            here, there = x[rows], params[rows]
            of_point, of_row = step * of_x[rows], step * of_params[rows]
            stencil = {k: values(here + k * of_point, there + k * of_row) for k in (-3, -2, -1, 1, 2, 3)}
            for name, value in at.items():
                moved = {k: (found[name] - value[rows]).detach() for k, found in stencil.items()}
                if name == "image":
                    moved = {k: case.manifold.difference(change, 0 * change) for k, change in moved.items()}
                error = _difference_error(exact[name][rows], scale[name][rows], moved, step)
                errors[name][rows] = torch.minimum(errors[name][rows], error)
        for name, error in errors.items():
            numbers[f"{direction.__name__}, {name}"] = require_within(
                error,
                DISAGREED[second],
                f"the derivative of {direction.__name__}'s {name} along a direction of point and parameters is not "
                "that of finite differences.",
                x=x,
                params=params,
            )
    return numbers


def _difference_error(
    exact: Float[Tensor, "n"], scale: Float[Tensor, "n"], moved: dict[int, Float[Tensor, "n"]], step: float
) -> Float[Tensor, "n"]:
    """The relative error against central differences, or against those to one side: there may be a knot on the other.

    Args:
        exact: Derivatives.
        scale: The size of what adds up to them.
        moved: Changes of the function over so many steps.
        step: Length of a step.
    """
    found = [(moved[-2] - 8 * moved[-1] + 8 * moved[1] - moved[2]) / (12 * step)]
    found += [side * (18 * moved[side] - 9 * moved[2 * side] + 2 * moved[3 * side]) / (6 * step) for side in (-1, 1)]
    errors = torch.stack([(exact - value).abs() / (scale + value.abs()) for value in found])
    # not a number is not agreement
    return errors.nan_to_num(nan=math.inf).amin(0)


def _compare_with_differences(case: TransformCase, check: Callable[..., bool], order: str) -> Numbers:
    """Both directions, for the point and for a conditioner's input on which point and parameters depend."""
    generator = case.generator()
    n = 4
    x = case.points(n, torch.float64, generator) * 0.9 + 0.05
    params = case.ordinary(n, torch.float64, generator)
    weight = torch.randn((3, case.transform.n_params), generator=generator, dtype=torch.float64)
    context = torch.randn((n, 3), generator=generator, dtype=torch.float64)
    for direction in (case.transform.forward, case.transform.inverse):

        def conditioned(
            x: Tensor, context: Tensor, direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = direction
        ) -> tuple[Tensor, Tensor]:
            image, log_derivative = direction(x, params + torch.tanh(context @ weight))
            if isinstance(case.manifold, Circle):
                # values that do not jump at the seam
                return torch.sin(2 * math.pi * image) + torch.cos(2 * math.pi * image), log_derivative
            return image, log_derivative

        inputs = (x.clone().requires_grad_(True), context.clone().requires_grad_(True))
        try:
            # 1e-3: finite differences of a function whose third derivatives reach 1e6
            check(conditioned, inputs, eps=1e-6, atol=1e-3, rtol=1e-3)
        except GradcheckError as error:
            violated(
                f"{order} derivatives of {direction.__name__} with respect to the point and a conditioner's input are "
                f"not those of finite differences. {error}",
                f"x = {x.tolist()}",
            )
    return {}


def check_third_derivative(case: TransformCase) -> Numbers:
    """x''' = (3 F''^2 - F' F''') / F'^5, from the derivatives of F at x."""
    generator = case.generator()
    n = 32
    params = case.ordinary(n, torch.float64, generator)
    y = case.points(n, torch.float64, generator) * 0.9 + 0.05
    with torch.enable_grad():
        y = y.detach().requires_grad_(True)
        inverse = derivative_chain(case.transform.inverse(y, params)[0], y, 3)
        x = case.transform.inverse(y, params)[0].detach().requires_grad_(True)
        first, second, third = derivative_chain(case.transform.forward(x, params)[0], x, 3)
    expected = (3 * second**2 - first * third) / first**5
    # relative to the terms, which may cancel
    scale = 1 + (3 * second**2 + (first * third).abs()) / first**5
    error = (inverse[2] - expected).abs() / scale
    message = "the inverse's third derivative is not that of the inverse function theorem."
    return {"largest relative error": require_within(error, 1e-6, message, y=y, params=params)}


def check_smoothness(case: TransformCase) -> Numbers:
    """In x, in x while all parameters move, and in each parameter alone up to large values."""
    transform = case.transform
    order = int(min(transform.smoothness, HIGHEST_ORDER))
    numbers = {"orders": float(order), "severest suspect, 1 is a jump": 0.0}
    for family in _families(case):
        known = min(order + 1, HIGHEST_ORDER)
        for jump in worst_jumps(family.curves, family.n, family.low, family.high, order, family.n_cells, known):
            if jump.severity > 1:
                x, params = (value.squeeze(0) for value in family.place(torch.tensor([jump.at]).double(), jump.curve))
                violated(
                    f"it declares C^{transform.smoothness:g}, but its derivative of order {jump.order} along "
                    f"{family.along(jump.curve)} jumps.",
                    f"x = {x.item():.9g}, params = {params.tolist()}",
                    jump=jump.size,
                    largest_value=jump.scale,
                )
            numbers["severest suspect, 1 is a jump"] = max(numbers["severest suspect, 1 is a jump"], jump.severity)
    return numbers


@dataclass(frozen=True)
class _Family:
    """Curves through points and parameters, on which derivatives are looked at.

    Attributes:
        transform: Maps them.
        n: How many curves.
        low: Where they start.
        high: Where they end.
        n_cells: Number of cells of the grid on each.
        place: From the curve's variable (n) and the index of the curve to points (n) and parameters (n, n_params).
        along: What moves along a curve, for messages.
    """

    transform: Transform
    n: int
    low: float
    high: float
    n_cells: int
    place: Callable[[Tensor, Tensor | int], tuple[Tensor, Tensor]]
    along: Callable[[int], str]

    def curves(self, s: Float[Tensor, "n"], curve: Tensor) -> Float[Tensor, "n"]:
        """The transform's image along the curves."""
        return self.transform.forward(*self.place(s, curve))[0]


def _families(case: TransformCase) -> list[_Family]:
    transform, generator = case.transform, case.generator()
    low, high = {Circle: (-0.1, 1.1), Interval: (0.0, 1.0)}.get(type(case.manifold), (-8.0, 8.0))
    middle = 0.5 * (low + high)
    n_params = transform.n_params
    base = case.ordinary(N_CURVES, torch.float64, generator)
    drift = torch.randn(base.shape, generator=generator, dtype=torch.float64) / (high - low)

    def in_x(s: Tensor, curve: Tensor | int) -> tuple[Tensor, Tensor]:
        return s, base[curve].expand(len(s), -1)

    def in_all(s: Tensor, curve: Tensor | int) -> tuple[Tensor, Tensor]:
        return s, base[curve] + (s - middle).unsqueeze(-1) * drift[curve]

    families = [
        _Family(transform, N_CURVES, low, high, N_CELLS, in_x, lambda _: "x"),
        _Family(transform, N_CURVES, low, high, N_CELLS, in_all, lambda _: "x and the parameters"),
    ]
    if n_params:
        points = case.points(n_params, torch.float64, generator)
        others = case.ordinary(n_params, torch.float64, generator)
        unit = torch.eye(n_params, dtype=torch.float64)

        def in_one(s: Tensor, curve: Tensor | int) -> tuple[Tensor, Tensor]:
            return points[curve].expand(len(s)), others[curve] + s.unsqueeze(-1) * unit[curve]

        families.append(
            _Family(transform, n_params, -REACH, REACH, N_CELLS // 2, in_one, lambda curve: f"parameter {curve}")
        )
    return families


def check_curvature(case: TransformCase) -> Numbers:
    """The density's force and force gradient: finite everywhere, and how large."""
    numbers: dict[str, float] = {}
    for dtype in DTYPES:
        for kind, draw in {"ordinary": case.ordinary, "extreme": case.extreme}.items():
            generator = case.generator()
            params = draw(4000, dtype, generator)
            x = case.points(4000, dtype, generator)
            if isinstance(case.manifold, Interval):
                x[1::50], x[2::50] = 0.0, 1.0
            elif isinstance(case.manifold, Circle):
                x[1::50] = 0.0
            with torch.enable_grad():
                x = x.requires_grad_(True)
                _, log_dydx = case.transform.forward(x, params)
                force, gradient = (d.detach() for d in derivative_chain(log_dydx, x, 2))
            finite = torch.isfinite(force) & torch.isfinite(gradient)
            message = f"the derivatives of log f' are not finite at {kind} parameters in {dtype}."
            require_within((~finite).to(dtype), 0.5, message, x=x, params=params)
            if dtype == torch.float64:
                numbers[f"largest force, {kind}"] = float(force.abs().max())
                numbers[f"largest force gradient, {kind}"] = float(gradient.abs().max())
    return numbers


def check_function_transforms(case: TransformCase) -> Numbers:
    generator = case.generator()
    n = 5
    x = case.points(n, torch.float64, generator) * 0.9 + 0.05
    params = case.ordinary(n, torch.float64, generator)
    largest = 0.0
    for direction in (case.transform.forward, case.transform.inverse):

        def total(
            x: Tensor, params: Tensor, direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = direction
        ) -> Tensor:
            image, log_derivative = direction(x, params)
            return (torch.sin(2 * math.pi * image) + log_derivative).sum()

        def one(x: Tensor, params: Tensor, total: Callable[[Tensor, Tensor], Tensor] = total) -> Tensor:
            return total(x[None], params[None])

        with torch.enable_grad():
            leaves = (x.clone().requires_grad_(True), params.clone().requires_grad_(True))
            gradients = torch.autograd.grad(total(*leaves), leaves, create_graph=True)
            (second,) = torch.autograd.grad(gradients[0].sum(), leaves[0])
        tangent = torch.ones_like(x)
        found = {
            "grad": (torch.func.grad(total, argnums=1)(x, params), gradients[1]),
            "vmap of grad": (torch.func.vmap(torch.func.grad(one))(x, params), gradients[0]),
            "jvp": (torch.func.jvp(lambda q: total(q, params), (x,), (tangent,))[1], gradients[0].sum()),
            "hessian": (torch.func.hessian(total)(x, params).sum(0), second),
        }
        for name, (value, reference) in found.items():
            error = (value - reference).detach().abs() / (1 + reference.detach().abs().max())
            message = f"torch.func's {name} of {direction.__name__} is not that of eager automatic differentiation."
            largest = max(largest, require_within(error, 1e-9, message))
    return {"largest relative error": largest}


def check_compilation(case: TransformCase) -> Numbers:
    generator = case.generator()
    x = case.points(7, torch.float64, generator) * 0.9 + 0.05
    params = case.ordinary(7, torch.float64, generator)
    largest = 0.0
    for direction in (case.transform.forward, case.transform.inverse):
        # the code of other transforms counts towards the limit of recompilations
        torch.compiler.reset()
        compiled = torch.compile(direction, backend=case.compile_backend, dynamic=False)
        results = []
        for function in (direction, compiled):
            with torch.enable_grad():
                leaves = (x.clone().requires_grad_(True), params.clone().requires_grad_(True))
                image, log_derivative = function(*leaves)
                total = (torch.sin(2 * math.pi * image) + log_derivative).sum()
                gradients = torch.autograd.grad(total, leaves)
            results.append([image.detach(), log_derivative.detach(), *gradients])
        for name, eager, value in zip(("image", "log-derivative", "gradient", "gradient"), *results, strict=True):
            error = (value - eager).abs() / (1 + eager.abs().max())
            message = f"the compiled {direction.__name__}'s {name} is not that of eager float64."
            largest = max(largest, require_within(error, 1e-10, message))
    return {"largest relative error": largest}


DERIVATIVE_CLAUSES: tuple[Clause[TransformCase], ...] = (
    Clause(
        "gradients",
        "first derivatives are those of finite differences, conditioner included",
        check_gradients,
        "Forces and training follow wrong gradients. Look for detach(), for in-place operations and for backward "
        "passes of your own; the inverse must depend on y and on params.",
    ),
    Clause(
        "second-gradients",
        "second derivatives likewise",
        check_second_gradients,
        "Training on forces follows wrong gradients, and Hessians are wrong. Look for detach(), once_differentiable "
        "and backward passes that are not differentiable themselves.",
    ),
    Clause(
        "third-derivative",
        "the inverse is right to third order",
        check_third_derivative,
        "Gradients of force losses through samples are wrong. Two Newton steps in the graph make the inverse right to "
        "third order: smoothflow.core.inversion.",
    ),
    Clause(
        "smoothness",
        "derivatives up to the declared order do not jump",
        check_smoothness,
        "Forces, or their gradients, jump there: energy is not conserved in dynamics, and training on forces meets "
        "outliers. Look for a clamp, an abs, a where, a relu or a knot, also among the parameters; or declare the "
        "smoothness that it has.",
    ),
    Clause(
        "curvature",
        "force and force gradient are finite everywhere",
        check_curvature,
        "One such point stops a training or a simulation with NaN. Look for square roots, logarithms and quotients of "
        "zero, and for where() with an infinite branch that is not chosen.",
    ),
    FLOAT32_CLAUSE,
    Clause(
        "functions",
        "torch.func gives the same derivatives",
        check_function_transforms,
        "Hessians by torch.func, and programs that use it, fail or are wrong. Look for in-place operations, .item() "
        "and data-dependent control flow.",
    ),
    Clause(
        "compilation",
        "torch.compile gives the same numbers",
        check_compilation,
        "Compiled models would give other numbers than they were trained with. Look for branches on is_compiling, on "
        "Python numbers and on data.",
    ),
)
