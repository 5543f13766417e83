"""The contract of a layer, in executable form."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.func import functional_call

from ..core.errors import ConfigurationError
from ..core.layers import Layer, given
from ..core.manifolds import Circle, Interval, Product
from .report import Clause, Numbers, Report, check_clauses, raising, require_within, violated

N_POINTS = 16

ROUNDING = 1e4
"""Rounding errors of a layer, in units of epsilon times the condition of its Jacobian: stacks of couplings add up
those of their parts."""


@dataclass(frozen=True)
class LayerCase:
    """A layer in float64, and points of its domain.

    Attributes:
        layer: A copy of what is checked.
        x: Points of its domain.
        seed: Seed of random directions.
        compile_backend: For the clause that compiles.
    """

    layer: Layer
    x: Float[Tensor, "batch dim"]
    seed: int
    compile_backend: str

    def latent(self) -> Float[Tensor, "batch dim"]:
        """The image of the points."""
        return self.layer.encode(self.x)[0].detach()

    def directions(self) -> dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Tensor, Product, Product]]:
        """Both directions by name: the function, points of its domain, its domain and its codomain."""
        layer = self.layer
        return {
            "encode": (layer.encode, self.x, layer.domain, layer.codomain),
            "decode": (layer.decode, self.latent(), layer.codomain, layer.domain),
        }


class InContext(Layer):
    """A layer that depends on a context, in one of them."""

    def __init__(self, layer: Layer, context: Float[Tensor, "n_context"]) -> None:
        super().__init__()
        self.layer = layer
        self.domain, self.codomain = layer.domain, layer.codomain
        self.register_buffer("context", context)
        self.context: Tensor

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        return self.layer.encode(x, *given(self.layer, self.context.to(x).expand(x.shape[0], -1)))

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        return self.layer.decode(z, *given(self.layer, self.context.to(z).expand(z.shape[0], -1)))


def distance(product: Product, a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Tensor:
    """How far apart points of a product are, column by column."""
    columns = [column.manifold.difference(a[:, i], b[:, i]).abs() for i, column in enumerate(product)]
    return torch.stack(columns, dim=-1)


def _without_seams(product: Product, value: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Smooth functions of a point: columns on circles by the sum of their sine and cosine."""
    columns = []
    for i, column in enumerate(product):
        column_value = value[:, i]
        if isinstance(column.manifold, Circle):
            phase = 2 * math.pi / column.manifold.period * column_value
            column_value = phase.sin() + phase.cos()
        columns.append(column_value)
    return torch.stack(columns, dim=-1)


def check_kept(case: LayerCase) -> Numbers:
    for dtype in (torch.float32, torch.float64):
        twin = copy.deepcopy(case.layer).to(dtype)
        for n in (0, 1, 3):
            for name, points, codomain in (
                ("encode", case.x, case.layer.codomain),
                ("decode", case.latent(), case.layer.domain),
            ):
                value, log_abs_det = getattr(twin, name)(points[:n].to(dtype))
                shapes = (tuple(value.shape), tuple(log_abs_det.shape))
                if shapes != ((n, len(codomain)), (n,)) or not value.dtype == log_abs_det.dtype == dtype:
                    violated(
                        f"{name} of {n} rows of {dtype} gave {value.dtype} {shapes[0]} and {log_abs_det.dtype} "
                        f"{shapes[1]}; it must give {(n, len(codomain))} and {(n,)}."
                    )
    return {}


def check_image(case: LayerCase) -> Numbers:
    for name, (function, points, _, codomain) in case.directions().items():
        value, log_abs_det = function(points)
        if not bool(torch.isfinite(log_abs_det).all()):
            violated(f"{name}'s log|det| is not finite.")
        for i, column in enumerate(codomain):
            if not bool(column.manifold.contains(value[:, i]).all()):
                violated(f'{name} leaves its codomain in column {i} ("{column.name}", {column.manifold}).')
    return {}


def check_determinism(case: LayerCase) -> Numbers:
    largest = 0.0
    for name, (function, points, _, codomain) in case.directions().items():
        kept = points.clone()
        first, second = function(points), function(points)
        if not torch.equal(kept, points):
            violated(f"{name} changes its input.")
        if not (torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])):
            violated(f"{name} gives other numbers when called again.")
        flipped = function(points.flip(0))[0].flip(0)
        message = f"{name} of a row depends on the other rows."
        # matrix products of other shapes round differently
        largest = max(largest, require_within(distance(codomain, flipped, first[0]), 1e-9, message))
    return {"largest change": largest}


def check_pickling(case: LayerCase) -> Numbers:
    twin = pickle.loads(pickle.dumps(case.layer))
    if not torch.equal(twin.encode(case.x)[0], case.layer.encode(case.x)[0]):
        violated("a pickled layer gives other numbers.")
    return {}


def _jacobians(function: Callable[[Tensor], tuple[Tensor, Tensor]], points: Tensor) -> Float[Tensor, "batch dim dim"]:
    rows = []
    with torch.enable_grad():
        leaf = points.detach().requires_grad_(True)
        value, _ = function(leaf)
        for i in range(value.shape[1]):
            rows.append(torch.autograd.grad(value[:, i].sum(), leaf, retain_graph=True)[0])
    return torch.stack(rows, dim=1)


def check_log_det(case: LayerCase) -> Numbers:
    largest = 0.0
    for name, (function, points, _, _) in case.directions().items():
        _, log_abs_det = function(points)
        expected = torch.linalg.slogdet(_jacobians(function, points)).logabsdet
        message = f"{name}'s log|det| is not that of its Jacobian by automatic differentiation."
        # 1e-8: rounding of an elimination in a badly scaled Jacobian
        largest = max(largest, require_within((log_abs_det - expected).abs(), 1e-8, message, point=points))
    return {"largest error": largest}


def check_round_trip(case: LayerCase) -> Numbers:
    numbers = {}
    directions = case.directions()
    for first, second in (("encode", "decode"), ("decode", "encode")):
        function, points, domain, _ = directions[first]
        image, there = function(points)
        again, back = directions[second][0](image)
        # the image is rounded, which moves its preimage by the inverse Jacobian
        inverse = torch.linalg.matrix_norm(_jacobians(directions[second][0], image.detach()), ord=math.inf)
        scale = 1 + points.abs().amax(1) + inverse * (1 + image.abs().amax(1))
        error = distance(domain, again, points).amax(1)
        limit = ROUNDING * torch.finfo(points.dtype).eps * scale
        message = f"{second} does not undo {first}."
        numbers[f"{second} of {first}"] = require_within(error, limit, message, point=points)
        require_within((there + back).abs(), 1e-7, f"the log|det| of {first} and {second} do not cancel.", point=points)
    return numbers


def check_seam(case: LayerCase) -> Numbers:
    largest = 0.0
    for name, (function, points, domain, codomain) in case.directions().items():
        value, log_abs_det = function(points)
        for i, column in enumerate(domain):
            if not isinstance(column.manifold, Circle):
                continue
            shifted = points.clone()
            shifted[:, i] += column.manifold.period
            other, other_log = function(shifted)
            moved = distance(codomain, other, value)
            message = f'{name} changes when column "{column.name}" goes once around.'
            error = torch.maximum(moved.amax(1), (other_log - log_abs_det).abs())
            largest = max(largest, require_within(error, 1e-7, message, point=points))
    return {"largest change": largest}


def check_gradients(case: LayerCase) -> Numbers:
    return _compare_with_differences(case, gradcheck, "first")


def check_second_gradients(case: LayerCase) -> Numbers:
    return _compare_with_differences(case, gradgradcheck, "second")


def _compare_with_differences(case: LayerCase, check: Callable[..., bool], order: str) -> Numbers:
    """For the point, and for the weights along a random direction."""
    generator = torch.Generator().manual_seed(case.seed)
    weights = {name: value.detach() for name, value in case.layer.named_parameters()}
    drift = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in weights.items()}
    for name, (_, points, _, codomain) in case.directions().items():

        def moved(point: Tensor, step: Tensor, name: str = name, codomain: Product = codomain) -> tuple[Tensor, Tensor]:
            state = {key: weights[key] + step * drift[key] for key in weights}
            value, log_abs_det = functional_call(_Direction(case.layer, name), _prefixed(state), (point,))
            return _without_seams(codomain, value), log_abs_det

        inputs = (points[:2].clone().requires_grad_(True), torch.zeros((), dtype=points.dtype, requires_grad=True))
        try:
            check(moved, inputs, eps=1e-6, atol=1e-3, rtol=1e-3)
        except GradcheckError as error:
            violated(
                f"{order} derivatives of {name} with respect to the point and the weights are not those of finite "
                f"differences. {error}",
                f"points = {points[:2].tolist()}",
            )
    return {}


class _Direction(torch.nn.Module):
    """One direction of a layer as a module's call, for `torch.func.functional_call`."""

    def __init__(self, layer: Layer, name: str) -> None:
        super().__init__()
        self.layer = layer
        self.name = name

    def forward(self, point: Tensor) -> tuple[Tensor, Tensor]:
        value, log_abs_det = getattr(self.layer, self.name)(point)
        return value, log_abs_det


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"layer.{name}": value for name, value in state.items()}


def check_compilation(case: LayerCase) -> Numbers:
    largest = 0.0
    for name, (function, points, _, codomain) in case.directions().items():
        torch.compiler.reset()
        compiled = torch.compile(function, backend=case.compile_backend, dynamic=False)
        results = []
        for call in (function, compiled):
            with torch.enable_grad():
                leaf = points.clone().requires_grad_(True)
                value, log_abs_det = call(leaf)
                total = (_without_seams(codomain, value).sum(1) + log_abs_det).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
            results.append([distance(codomain, value.detach(), 0 * value.detach()), log_abs_det.detach(), gradient])
        for what, eager, other in zip(("value", "log|det|", "gradient"), *results, strict=True):
            error = (other - eager).abs() / (1 + eager.abs().max())
            message = f"the compiled {name}'s {what} is not that of eager float64."
            largest = max(largest, require_within(error, 1e-10, message))
    return {"largest relative error": largest}


_CLAUSES: tuple[Clause[LayerCase], ...] = (
    Clause(
        "kept",
        "dtype and number of rows are those of the input",
        check_kept,
        "A flow in float32 would silently become float64, or stop at a shape. Give one log|det| per row, and make "
        "constants like x.",
    ),
    Clause(
        "image",
        "encode maps into the codomain and decode into the domain",
        check_image,
        "The next layer or chart is not defined outside its domain. Wrap circles, and keep intervals between their "
        "ends.",
    ),
    Clause(
        "determinism",
        "the same input gives the same output, row by row",
        check_determinism,
        "Energies would differ between calls and batches. Look for random numbers, operations in place, and "
        "statistics of the batch.",
    ),
    Clause(
        "pickling",
        "a pickled layer is the same layer",
        check_pickling,
        "Worker processes and checkpoints need copies. Keep tensors, numbers and functions of a module as attributes.",
    ),
    Clause(
        "log-det",
        "log|det| is that of automatic differentiation",
        check_log_det,
        "Log-densities, and with them energies, likelihoods and weights, are wrong by the error. Look at the sign, "
        "and at columns whose logarithm is left out or counted twice.",
    ),
    Clause(
        "round-trip",
        "encode and decode undo each other",
        check_round_trip,
        "Samples and densities would belong to two different maps. Look at the columns that condition the others: "
        "both directions must see the same values.",
    ),
    Clause(
        "seam",
        "going once around a circle changes nothing",
        check_seam,
        "The energy would jump when a torsion passes the cut. Show circles to a conditioner as sines and cosines.",
    ),
    Clause(
        "gradients",
        "first derivatives are those of finite differences, weights included",
        check_gradients,
        "Forces and training follow wrong gradients. Look for detach() and backward passes of your own, in the "
        "conditioner too.",
    ),
    Clause(
        "second-gradients",
        "second derivatives likewise",
        check_second_gradients,
        "Training on forces follows wrong gradients. Look for detach(), for once_differentiable, and for ReLU in the "
        "conditioner.",
    ),
    Clause(
        "compilation",
        "torch.compile gives the same numbers",
        check_compilation,
        "Compiled models would give other numbers than they were trained with. Look for branches on data and on "
        "is_compiling.",
    ),
)

LAYER_CLAUSES: tuple[str, ...] = tuple(clause.name for clause in _CLAUSES)
"""Names of the clauses of a layer's contract, in the order in which they are checked."""


def examine_layer(
    layer: Layer,
    x: Float[Tensor, "batch dim"] | None = None,
    clauses: Sequence[str] | None = None,
    seed: int = 0,
    compile_backend: str = "aot_eager",
) -> Report:
    """Check a layer against its contract, and report what held and what did not.

    Args:
        layer: Any layer; a float64 copy of it is checked. One that depends on a context is checked in a random one,
            with features between -1 and 1.
        x: Points of its domain, off its edges; by default, random points of unit circles, intervals and lines.
        clauses: Which of `LAYER_CLAUSES`; by default, all.
        seed: Seed of points and directions.
        compile_backend: With which the clause "compilation" compiles.

    Raises:
        ConfigurationError: If there is no clause of that name, or ``x`` is needed.
    """
    generator = torch.Generator().manual_seed(seed)
    if x is None:
        columns = []
        for column in layer.domain:
            manifold = column.manifold
            if isinstance(manifold, Interval) and not math.isfinite(manifold.upper - manifold.lower):
                raise ConfigurationError(
                    f'Column "{column.name}" lives on {manifold}, on which no point is typical; pass points x.'
                )
            uniform = torch.rand(N_POINTS, generator=generator, dtype=torch.float64)
            if isinstance(manifold, Interval):
                columns.append(manifold.lower + (0.02 + 0.96 * uniform) * (manifold.upper - manifold.lower))
            elif isinstance(manifold, Circle):
                columns.append(manifold.period * uniform)
            else:
                columns.append(torch.special.ndtri(0.001 + 0.998 * uniform))
        x = torch.stack(columns, dim=-1)
    checked = copy.deepcopy(layer)
    if layer.n_context > 0:
        checked = InContext(checked, 2 * torch.rand(layer.n_context, generator=generator, dtype=torch.float64) - 1)
    case = LayerCase(checked.double(), x.detach().double(), seed, compile_backend)
    return check_clauses(f"Layer {type(layer).__name__}", _CLAUSES, {"": case}, clauses)


check_layer = raising(examine_layer)
