"""The clauses of a transform's contract that need values and first derivatives."""

from __future__ import annotations

import copy
import math
import pickle

import torch
from torch import Tensor

from ..core.errors import ManifoldError, SmoothflowError
from ..core.finite import first_not_finite
from ..core.manifolds import UNIT_MANIFOLDS, Circle, Interval
from ..core.transforms import Transform
from .report import Clause, Numbers, require_within, violated
from .transform_case import DTYPES, TransformCase, log_slope

ROUNDING = 200.0
"""Rounding errors of a transform, in units of epsilon times the condition of what is computed: a sum of some ten terms
of either sign, and of the functions in them."""


def check_declaration(case: TransformCase) -> Numbers:
    transform = case.transform
    if not isinstance(transform, Transform):
        violated(f"the factory made {type(transform).__name__}, not a Transform.")
    kinds = {type(manifold) for manifold in UNIT_MANIFOLDS.values()}
    if not transform.manifolds or not set(transform.manifolds) <= kinds:
        violated(f"manifolds must be a non-empty set of {', '.join(k.__name__ for k in kinds)}.")
    if not isinstance(transform.name, str) or not transform.name:
        violated("name must be a non-empty string.")
    smoothness = transform.smoothness
    if not (smoothness == math.inf or (smoothness == int(smoothness) and smoothness >= 1)):
        violated("smoothness must be math.inf, or a whole number from 1 on.", smoothness=float(smoothness))
    initial = transform.initial_params()
    if initial.shape != (transform.n_params,) or not bool(torch.isfinite(initial).all()):
        violated(f"initial_params() must be {transform.n_params} finite numbers; its shape is {tuple(initial.shape)}.")
    for other in UNIT_MANIFOLDS.values():
        if type(other) not in transform.manifolds:
            try:
                case.factory(other)
            except ManifoldError:
                continue
            violated(f"it must refuse the {other.name}, which it does not declare, with a ManifoldError.")
    return {"parameters": transform.n_params, "smoothness": float(smoothness)}


def check_kept(case: TransformCase) -> Numbers:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for dtype in DTYPES:
            for shape in ((), (3,), (2, 3), (0,), (0, 2)):
                generator = case.generator()
                n = math.prod(shape)
                x = case.points(n, dtype, generator).reshape(shape).to(device)
                ordinary = case.ordinary(max(n, 1), dtype, generator).to(device)
                params = ordinary[:n].reshape(*shape, case.transform.n_params)
                for direction in (case.transform.forward, case.transform.inverse):
                    for value in direction(x, params):
                        if (value.shape, value.dtype, value.device) != (x.shape, x.dtype, x.device):
                            violated(
                                f"{direction.__name__} of {x.dtype} {tuple(x.shape)} on {x.device} gave {value.dtype} "
                                f"{tuple(value.shape)} on {value.device}."
                            )
    return {"devices": len(devices)}


def check_refusal(case: TransformCase) -> Numbers:
    transform, generator = case.transform, case.generator()
    x = case.points(4, torch.float64, generator)
    params = case.ordinary(4, torch.float64, generator)
    half = (x.half(), params.half())
    wrong = {"float16": half, "one parameter too many": (x, torch.cat([params, params[:, :1]], dim=-1))}
    wrong["parameters of another dtype"] = (x, params.float())
    wrong["no dimension of parameters"] = (x, params[:, 0])
    for what, (value, parameters) in wrong.items():
        for direction in (transform.forward, transform.inverse):
            try:
                direction(value, parameters)
            except SmoothflowError:
                continue
            except Exception as error:
                violated(
                    f"{direction.__name__} must refuse {what} with a SmoothflowError (call require_valid); it raised "
                    f"{type(error).__name__}: {error}"
                )
            violated(f"{direction.__name__} must refuse {what} with a SmoothflowError (call require_valid).")
    nan = torch.full_like(x, math.nan)
    for what, (value, parameters) in {"points": (nan, params), "parameters": (x, params * math.nan)}.items():
        for direction in (transform.forward, transform.inverse):
            try:
                image, log_derivative = direction(value, parameters)
            except SmoothflowError:
                continue
            if bool(torch.isfinite(image).any()) and bool(torch.isfinite(log_derivative).any()):
                violated(f"{direction.__name__} hides NaN in its {what}: it returned finite numbers.")
    return {}


def check_determinism(case: TransformCase) -> Numbers:
    generator = case.generator()
    x = case.points(64, torch.float64, generator)
    params = case.ordinary(64, torch.float64, generator)
    order = torch.randperm(64, generator=generator)
    largest = 0.0
    for direction in (case.transform.forward, case.transform.inverse):
        kept = x.clone(), params.clone()
        first, second = direction(x, params), direction(x, params)
        if not (torch.equal(kept[0], x) and torch.equal(kept[1], params)):
            violated(f"{direction.__name__} changes its input.")
        for a, b in zip(first, second, strict=True):
            if not torch.equal(a, b):
                violated(f"{direction.__name__} gives other numbers when called again.")
        shuffled = direction(x[order], params[order])
        slope = (first[1].abs()).exp()
        limit = ROUNDING * torch.finfo(x.dtype).eps * slope[order] ** 2
        moved = case.distance(shuffled[0], first[0][order])
        message = f"{direction.__name__} of an element depends on the other elements of the batch."
        largest = max(largest, require_within(moved, limit, message, x=x[order], params=params[order]))
    return {"largest change": largest}


def check_pickling(case: TransformCase) -> Numbers:
    generator = case.generator()
    x = case.points(8, torch.float64, generator)
    params = case.ordinary(8, torch.float64, generator)
    for what, twin in {
        "pickled": pickle.loads(pickle.dumps(case.transform)),
        "copied": copy.deepcopy(case.transform),
    }.items():
        for a, b in zip(twin.forward(x, params), case.transform.forward(x, params), strict=True):
            if not torch.equal(a, b):
                violated(f"the {what} transform gives other numbers.")
    return {}


def check_precision(case: TransformCase) -> Numbers:
    """In float64 a step of 1e-9 must move the image by the slope; float32 inside would move it by 0, or by 1e-7."""
    generator = case.generator()
    step = 2.0**-30
    # away from the ends by the longest step
    x = case.points(256, torch.float64, generator) * 0.98 + 0.01
    params = case.ordinary(256, torch.float64, generator)
    direction = torch.randn(params.shape, generator=generator, dtype=torch.float64)
    largest = 0.0
    for name, function in {"forward": case.transform.forward, "inverse": case.transform.inverse}.items():

        def change(of_x: float, of_params: float, function: object = function) -> Tensor:
            image, log_derivative = function(x + of_x, params + of_params * direction)  # type: ignore[operator]
            base, base_log = function(x, params)  # type: ignore[operator]
            return torch.stack([case.manifold.difference(image, base), log_derivative - base_log])

        for what, unit in {"point": (1.0, 0.0), "parameters": (0.0, 1.0)}.items():
            fine = change(step * unit[0], step * unit[1]) / step
            coarse = change(16 * step * unit[0], 16 * step * unit[1]) / (16 * step)
            # 1e-4: rounding of the fine step (2^30 eps is 2e-7) times the condition; knots may lie between the two
            scale = 1 + coarse.abs()
            error = ((fine - coarse).abs() / scale).amax(0)
            share = float((error > 0.02).double().mean())
            if share > 0.02:
                worst = int(error.argmax())
                violated(
                    f"{name} in float64 does not resolve a step of 1e-9 in its {what}; something inside is rounded "
                    "to fewer digits.",
                    f"x = {x[worst].item():.17g}",
                    share_of_elements=share,
                    fine_slope=fine[0, worst].item(),
                    coarse_slope=coarse[0, worst].item(),
                )
            largest = max(largest, float(error.median()))
    return {"median error of a slope": largest}


def check_monotonicity(case: TransformCase) -> Numbers:
    generator = case.generator()
    n_rows, n_points = 96, 513
    params = torch.cat([case.ordinary(32, torch.float64, generator), case.extreme(64, torch.float64, generator)])
    low, high = (0.0, 1.0) if isinstance(case.manifold, Circle | Interval) else (-8.0, 8.0)
    x = torch.linspace(low, high, n_points, dtype=torch.float64).expand(n_rows, -1)
    y, log_dydx = case.transform.forward(x, params[:, None].expand(-1, n_points, -1))
    bad = first_not_finite(y + log_dydx)
    if bad is not None:
        row, point = bad
        violated(
            f"the image ({y[row, point].item():.6g}) or its log-derivative ({log_dydx[row, point].item():.6g}) is not "
            "finite.",
            f"x = {x[row, point].item():.9g}; params = {params[row].tolist()}",
        )
    rise = y[:, 1:] - y[:, :-1]
    if isinstance(case.manifold, Circle):
        rise = case.manifold.wrap(rise)
        # a rise of nothing, rounded down, wraps to a whole turn
        rise = torch.where(rise > 1 - 1e-12, rise - 1, rise)
        turns = rise.sum(1)
        require_within(
            (turns - 1).abs(), 1e-9, "x going around once must take y around once, never backwards.", params=params
        )
    tolerance = ROUNDING * torch.finfo(torch.float64).eps * (1 + y.abs().amax(1))
    require_within(
        (-rise).amax(1).clamp(min=0), tolerance, "y must increase with x; it falls between grid points.", params=params
    )
    return {"smallest slope": float(log_dydx.min().exp()), "largest slope": float(log_dydx.max().exp())}


def check_ends(case: TransformCase) -> Numbers:
    generator = case.generator()
    params = torch.cat([case.ordinary(32, torch.float64, generator), case.extreme(32, torch.float64, generator)])
    n, eps = len(params), torch.finfo(torch.float64).eps
    if isinstance(case.manifold, Interval):
        largest = 0.0
        for end in (0.0, 1.0):
            x = torch.full((n,), end, dtype=torch.float64)
            y, log_dydx = case.transform.forward(x, params)
            message = f"the end {end:g} of the interval must stay where it is."
            largest = max(largest, require_within((y - end).abs(), ROUNDING * eps, message, params=params))
            size = (0 * log_dydx).nan_to_num(nan=torch.inf)
            message = f"the log-derivative at the end {end:g} of the interval must be finite."
            require_within(size, torch.finfo(x.dtype).tiny, message, params=params)
            back, _ = case.transform.inverse(x, params)
            limit = ROUNDING * eps * (1 + torch.exp(-log_dydx))
            require_within((back - end).abs(), limit, f"the inverse must keep the end {end:g}.", params=params)
        _require_preimages_inside(case, generator)
        return {"largest shift of an end": largest}
    if isinstance(case.manifold, Circle):
        x = case.points(n, torch.float64, generator)
        x[::4] = 0.0
        largest = 0.0
        for direction in (case.transform.forward, case.transform.inverse):
            y, log_derivative = direction(x, params)
            again, log_again = direction(x + 1, params)
            # x + 1 rounds x
            limit = ROUNDING * eps * (1 + log_derivative.exp())
            message = f"{direction.__name__} of x + 1 is not {direction.__name__} of x."
            largest = max(largest, require_within(case.distance(y, again), limit, message, x=x, params=params))
            message = f"the log-derivative of {direction.__name__} at x + 1 is not that at x."
            require_within((log_again - log_derivative).abs(), 1e-6, message, x=x, params=params)
        return {"largest difference across the seam": largest}
    x = torch.full((n,), 1e4, dtype=torch.float64)
    reach = torch.minimum(case.transform.forward(x, params)[0], -case.transform.forward(-x, params)[0])
    require_within(100 - reach, 0.0 * reach + 1e-300, "the line must be mapped onto: |f| < 100 at 1e4.", params=params)
    return {"smallest |f| at 1e4": float(reach.min())}


def _require_preimages_inside(case: TransformCase, generator: torch.Generator) -> None:
    """Next to an end of the interval, too, what is sampled is inside: outside, nothing that follows is defined."""
    for dtype in DTYPES:
        params = torch.cat([case.ordinary(256, dtype, generator), case.extreme(256, dtype, generator)])
        distances = 0.5 * torch.finfo(dtype).eps * torch.tensor([0, 1, 2, 8], dtype=dtype)
        for y in torch.cat([distances, 1 - distances]).tolist():
            place = torch.full((len(params),), y, dtype=dtype)
            x, log_derivative = case.transform.inverse(place, params)
            outside = torch.maximum(-x, x - 1).nan_to_num(nan=torch.inf)
            none = torch.finfo(dtype).tiny
            message = f"the preimage of {y:.9g} in {dtype} must be inside the interval, whatever is rounded."
            require_within(outside, none, message, params=params)
            size = (0 * log_derivative).nan_to_num(nan=torch.inf)
            require_within(size, none, f"the inverse's log-derivative at {y:.9g} must be finite.", params=params)


def check_log_derivative(case: TransformCase) -> Numbers:
    largest = 0.0
    for dtype, what in ((torch.float64, "ordinary"), (torch.float64, "structured"), (torch.float32, "ordinary")):
        if what == "structured":
            x, params = case.structured(dtype)
        else:
            generator = case.generator()
            x = case.points(2048, dtype, generator)
            params = case.ordinary(2048, dtype, generator)
        # the derivative by autograd passes through other sums, which cancel where the slope is small; in units of eps
        tolerance = 1e7 * torch.finfo(dtype).eps if dtype == torch.float64 else 5e-3
        for direction in (case.transform.forward, case.transform.inverse):
            _, log_derivative = direction(x, params)
            error = (log_derivative - log_slope(direction, x, params)).abs()
            message = f"{direction.__name__}'s log-derivative in {dtype} is not that of automatic differentiation."
            worst = require_within(error, tolerance, message, x=x, params=params)
            largest = max(largest, worst if dtype == torch.float64 else 0.0)
    return {"largest error": largest}


def check_round_trip(case: TransformCase) -> Numbers:
    numbers: dict[str, float] = {}
    for dtype in DTYPES:
        eps = torch.finfo(dtype).eps
        generator = case.generator()
        n_ordinary = 1400
        x = case.points(2000, dtype, generator)
        params = torch.cat([case.ordinary(n_ordinary, dtype, generator), case.extreme(600, dtype, generator)])
        places, rows = case.structured(dtype)
        x, params = torch.cat([x, places]), torch.cat([params, rows])
        largest = 0.0
        for name, there, back in (
            ("inverse of forward", case.transform.forward, case.transform.inverse),
            ("forward of inverse", case.transform.inverse, case.transform.forward),
        ):
            y, log_there = there(x, params)
            again, log_back = back(y, params)
            # y is rounded, which moves its preimage by 1 / slope, at x or, beyond a knot, at the preimage found; x is
            # rounded, which moves its image by the slope
            steepest = torch.maximum((-log_there).exp(), log_back.exp())
            condition = (1 + x.abs()) + (1 + y.abs()) * steepest
            error = case.distance(again, x)
            message = f"{name} in {dtype} is not the identity."
            require_within(error, ROUNDING * eps * condition, message, x=x, params=params)
            largest = max(largest, float((error / condition).max()) / eps)
            # the log-derivative changes over the rounding of y, by the curvature; on ordinary parameters only
            drift = (log_there + log_back)[:n_ordinary].abs()
            limit = 1e-7 if dtype == torch.float64 else 2e-2
            message = f"log-derivatives of {name} do not cancel."
            require_within(drift, limit, message, x=x[:n_ordinary], params=params[:n_ordinary])
        numbers[f"error in {str(dtype)[6:]}, eps"] = largest
    return numbers


VALUE_CLAUSES: tuple[Clause[TransformCase], ...] = (
    Clause(
        "declaration",
        "name, manifolds, smoothness and parameters are declared and hold",
        check_declaration,
        "The declaration decides on which columns flows use the transform and what they promise of forces. Correct "
        "the class attributes, n_params or initial_params.",
    ),
    Clause(
        "kept",
        "dtype, device and batch shape are those of the input",
        check_kept,
        "A flow in float32 would silently become float64, or stop at a shape. Make constants with the dtype and "
        "device of x, and let every operation act on the last dimension of params alone.",
    ),
    Clause(
        "refusal",
        "half precision and wrong shapes are refused, NaN is not hidden",
        check_refusal,
        "Wrong shapes would broadcast into wrong densities, and NaN would be trained on. Call self.require_valid(x, "
        "params) first, and leave nan_to_num and clamps of NaN out.",
    ),
    Clause(
        "determinism",
        "the same input gives the same output, element by element",
        check_determinism,
        "Energies would differ between calls and batches, and no run could be repeated. Look for random numbers, "
        "operations in place, and sums over the batch.",
    ),
    Clause(
        "pickling",
        "a pickled or copied transform is the same transform",
        check_pickling,
        "Worker processes and checkpoints need copies. Keep tensors, numbers and functions of a module as attributes, "
        "no lambdas and open files.",
    ),
    Clause(
        "precision",
        "float64 in, float64 throughout",
        check_precision,
        "Forces in float64 would carry errors of float32. Look for .float(), constants made in float32, and NumPy's "
        "float32.",
    ),
    Clause(
        "monotonicity",
        "it increases at all parameters, once around on the circle",
        check_monotonicity,
        "Where y falls the map is not one to one, and densities do not integrate to 1. Bound the parameters so that "
        "the slope stays positive and finite for all of them, on the interval at both ends, too.",
    ),
    Clause(
        "ends",
        "ends stay, preimages are inside, the seam does not show, the line is mapped onto",
        check_ends,
        "Probability would leak out of the manifold, or the energy would jump when a torsion passes the cut. "
        "Normalize the map so that f(0) = 0 and f(1) = 1, with finite slopes there, which powers of x do not have; "
        "bring preimages that a closed inverse rounds out of the interval back with x + (x.clamp(0, 1) - x).detach(); "
        "on the circle use functions of period 1 only.",
    ),
    Clause(
        "log-derivative",
        "log-derivatives are those of automatic differentiation",
        check_log_derivative,
        "Log-densities, and with them energies, likelihoods and weights, are wrong by the error. Look at the sign and "
        "the factors of the second value that is returned: forward's is log dy/dx, inverse's log dx/dy. Where it is "
        "float32 alone, the slope may be too small for the digits of y: bound the parameters more.",
    ),
    Clause(
        "round-trip",
        "inverse and forward undo each other near machine precision",
        check_round_trip,
        "Samples and densities would belong to two different maps, and weights be wrong. Look at the inverse where "
        "the error is, or leave _inverse out to have it found numerically; where it is already, the slope may be too "
        "small for the digits of y in float32: bound the parameters more.",
    ),
)
