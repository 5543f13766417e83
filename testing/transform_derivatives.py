"""The clauses of a transform's contract that need higher derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck

from ..core.manifolds import Circle, Interval
from .report import Clause, Numbers, require_within, violated
from .smoothness import derivative_chain, worst_jumps
from .transform_case import DTYPES, TransformCase
from .transform_float32 import FLOAT32_CLAUSE

HIGHEST_ORDER = 4
"""Derivatives of C-infinity transforms are tested up to this order: force matching and one more."""


def check_gradients(case: TransformCase) -> Numbers:
    return _compare_with_differences(case, gradcheck, "first")


def check_second_gradients(case: TransformCase) -> Numbers:
    return _compare_with_differences(case, gradgradcheck, "second")


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
    transform, generator = case.transform, case.generator()
    order = int(min(transform.smoothness, HIGHEST_ORDER))
    n_curves = 4
    params = case.ordinary(n_curves, torch.float64, generator)
    drift = torch.randn(params.shape, generator=generator, dtype=torch.float64)
    low, high = {Circle: (-0.25, 1.25), Interval: (0.0, 1.0)}.get(type(case.manifold), (-6.0, 6.0))
    numbers = {"orders": float(order)}
    for what, speed in {"x": 0.0, "x and the parameters": 1.0}.items():

        def curves(s: Float[Tensor, "n"], curve: Tensor, speed: float = speed) -> Float[Tensor, "n"]:
            moving = params[curve] + speed * (s - 0.5).unsqueeze(-1) * drift[curve]
            return transform.forward(s, moving)[0]

        for jump in worst_jumps(curves, n_curves, low, high, order):
            if jump.severity > 1:
                violated(
                    f"it declares C^{transform.smoothness:g}, but its derivative of order {jump.order} along {what} "
                    "jumps.",
                    f"x = {jump.at:.9g}, params = {params[jump.curve].tolist()}",
                    jump=jump.size,
                    largest_value=jump.scale,
                )
            name = f"jump of order {jump.order}, relative"
            numbers[name] = max(numbers.get(name, 0.0), jump.size / max(jump.scale, 1e-300))
    return numbers


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
    Clause("gradients", "first derivatives are those of finite differences, conditioner included", check_gradients),
    Clause("second-gradients", "second derivatives likewise", check_second_gradients),
    Clause("third-derivative", "the inverse is right to third order", check_third_derivative),
    Clause("smoothness", "derivatives up to the declared order do not jump", check_smoothness),
    Clause("curvature", "force and force gradient are finite everywhere", check_curvature),
    FLOAT32_CLAUSE,
    Clause("functions", "torch.func gives the same derivatives", check_function_transforms),
    Clause("compilation", "torch.compile gives the same numbers", check_compilation),
)
