"""Transforms that are broken in one way each fail on the clause that is about it."""

import functools
import importlib.util
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from smoothflow.backends.flows.affine import AffineTransform
from smoothflow.backends.flows.smooth import SmoothTransform
from smoothflow.backends.flows.spline import SplineTransform
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.errors import ConfigurationError, ConformanceError
from smoothflow.core.manifolds import Circle, Interval, Line, Manifold, Product
from smoothflow.core.plugins import Registry
from smoothflow.core.transforms import Transform
from smoothflow.testing import TRANSFORM_CLAUSES, check_transform, examine_transform
from smoothflow.testing.transform_case import TransformCase
from torch import Tensor


class WrongSign(SmoothTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y, -log_dydx

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        # the inverse is right, so that nothing else is broken
        return SmoothTransform(self.manifold).inverse(y, params)


class WrongInverseSign(SplineTransform):
    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_dxdy = super().inverse(y, params)
        return x, -log_dxdy


class TooProud(SplineTransform):
    smoothness = 2


class KinkedInParameters(SmoothTransform):
    """C-infinity in x, but the parameters go through a kink."""

    def _shape(self, params: Tensor) -> tuple[Tensor, ...]:
        return super()._shape(params.abs())


class Folding(AffineTransform):
    """Falls somewhere if the shift is large."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        bend = 0.02 * torch.nn.functional.softplus(params[..., 1].abs() - 8)
        return y + bend * torch.sin(3 * x), log_dydx

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return super().inverse(y, params)


class DetachedConditioner(AffineTransform):
    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return super().inverse(y, params.detach())


class DetachedPoint(SmoothTransform):
    """First derivatives of the inverse are right, and second ones are not: the fault of the paper's code."""

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        root = super().inverse(y, params)[0].detach()
        image, log_dydx = self.forward(root, params)
        x = root - self.manifold.difference(image, y) * torch.exp(-log_dydx).detach()
        return x.clamp(0, 1), -self.forward(x, params)[1]


class OneMinusSigmoid(SmoothTransform):
    """The slope of a sigmoid as s (1 - s), which has no digits left where s is next to 1."""

    def _steps(self, t: Tensor, steepness: Tensor, exponents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        u, slope = self._argument(t, steepness, exponents)
        step = torch.sigmoid(u)
        return step, (step - step * step) * slope


class SingleInside(SmoothTransform):
    def _mix(self, x: Tensor, *shape: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super()._mix(x.float(), *(piece.float() for piece in shape))
        return y.to(x.dtype), log_dydx.to(x.dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return SmoothTransform(self.manifold).inverse(y, params)


class MovesTheEnd(SmoothTransform):
    manifolds = frozenset({Interval})

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return 0.999 * y, log_dydx + math.log(0.999)


class LeavesTheInterval(SmoothTransform):
    """Right to the last digit but one, which at an end is outside."""

    manifolds = frozenset({Interval})

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_derivative = super().inverse(y, params)
        return x - torch.finfo(x.dtype).eps, log_derivative


class ShowsTheSeam(SmoothTransform):
    manifolds = frozenset({Circle})

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y, log_dydx + 0.01 * x


class Rough(AffineTransform):
    """The inverse is a little off."""

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_dxdy = super().inverse(y, params)
        return x * (1 + 1e-11), log_dxdy


class WrongType(AffineTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y.double(), log_dydx


class WrongShape(AffineTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y, log_dydx.sum()


class TakesHalves(AffineTransform):
    def require_valid(self, x: Tensor, params: Tensor) -> None:
        pass


class HidesNaN(AffineTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y.nan_to_num(), log_dydx.nan_to_num()


class Noisy(AffineTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y + 1e-15 * torch.rand_like(y), log_dydx


class Normalizing(AffineTransform):
    """Elements of a batch feel each other."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return y + 1e-9 * x[:1].detach() if x.ndim else y, log_dydx


class InPlace(AffineTransform):
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        if not x.requires_grad:
            x += 1
        return y, log_dydx


class Unpicklable(AffineTransform):
    def __init__(self, manifold: Manifold) -> None:
        super().__init__(manifold)
        self.secret = lambda: None


class Undeclared(AffineTransform):
    """Takes the circle, too, without saying so."""

    def __init__(self, manifold: Manifold) -> None:
        super().__init__(Line())
        self.manifold = manifold


class HalfSmooth(AffineTransform):
    smoothness = 0.5


class BadStart(AffineTransform):
    def initial_params(self) -> Tensor:
        return torch.zeros(3)


class SharpEdge(SmoothTransform):
    """The curvature of log f' is infinite at the end x = 0."""

    manifolds = frozenset({Interval})

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        x = x.clamp(min=0)
        return y + 1e-3 * x**2.5 * (1 - x), torch.log(log_dydx.exp() + 1e-3 * (2.5 * x**1.5 - 3.5 * x**2.5))


class ThirdOff(AffineTransform):
    """Only the third derivative of the inverse is wrong."""

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_dxdy = super().inverse(y, params)
        return x + (y - y.detach()) ** 3, log_dxdy


class LooksAtValues(AffineTransform):
    """Fails under vmap."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return (y if x.sum().item() < 1e300 else -y), log_dydx


class GraphBroken(AffineTransform):
    """Compiled, it is another function."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return (y + 1e-6 if torch.compiler.is_compiling() else y), log_dydx


BROKEN = [
    (Undeclared, "declaration"),
    (HalfSmooth, "declaration"),
    (BadStart, "declaration"),
    (WrongType, "kept"),
    (WrongShape, "kept"),
    (TakesHalves, "refusal"),
    (HidesNaN, "refusal"),
    (Noisy, "determinism"),
    (Normalizing, "determinism"),
    (InPlace, "determinism"),
    (Unpicklable, "pickling"),
    (SingleInside, "precision"),
    (Folding, "monotonicity"),
    (MovesTheEnd, "ends"),
    (LeavesTheInterval, "ends"),
    (ShowsTheSeam, "ends"),
    (WrongSign, "log-derivative"),
    (WrongInverseSign, "log-derivative"),
    (Rough, "round-trip"),
    (DetachedConditioner, "gradients"),
    (DetachedPoint, "second-gradients"),
    (ThirdOff, "third-derivative"),
    (TooProud, "smoothness"),
    (KinkedInParameters, "smoothness"),
    (LooksAtValues, "functions"),
    (GraphBroken, "compilation"),
]


class Kinked(SmoothTransform):
    """A derivative jumps at 0.37, and nowhere else: not at the seam, nor at the ends."""

    power = 2
    amplitude = 0.0

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        inside = x - torch.floor(x) if isinstance(self.manifold, Circle) else x
        ramp = (inside - 0.37).clamp(min=0) ** self.power * (1 - inside).clamp(min=0) ** 5
        return y + self.amplitude * ramp, log_dydx


@pytest.mark.parametrize("manifold", [Circle, Interval])
@pytest.mark.parametrize(("power", "amplitude"), [(2, 2e-4), (3, 2e-2)])
def test_a_small_kink_between_steep_flanks_is_found(manifold: type[Manifold], power: int, amplitude: float) -> None:
    """f'' jumps by 1e-5 of its maximum, which is 3.6 to 4; or the third derivative by as little."""
    broken = type("Broken", (Kinked,), {"power": power, "amplitude": amplitude})
    (result,) = examine_transform(broken, [manifold], ["smoothness"]).results
    assert result.error is not None
    size = math.factorial(power) * amplitude * 0.63**5
    assert f"its derivative of order {power} along x jumps" in str(result.error)
    assert result.error.numbers["jump"] == pytest.approx(size, rel=0.01)
    assert result.error.numbers["jump"] < 1.1e-5 * result.error.numbers["largest value"] * (1 if power == 2 else 10)
    # on the circle a whole turn further is the same place
    at = float(result.error.inputs.split("x = ")[1].split(",")[0])
    assert at == pytest.approx(0.37, abs=1e-6)


class Cornered(AffineTransform):
    """The log-derivative is wrong where two parameters are large and x is in a stretch of 2 % of probability."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        wrong = (params[..., 0] > 2) & (params[..., 1] < -2) & (x > 0) & (x < 0.15)
        return y, log_dydx + 1e-3 * wrong


class WrongBackward(torch.autograd.Function):
    """The identity, whose gradient is a little off between 0.5 and 0.51."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 + 0.1 * ((x > 0.5) & (x < 0.51)))


class LocallyWrong(SmoothTransform):
    """Gradients of the image are wrong in one percent of the interval; the value is right."""

    manifolds = frozenset({Interval})

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = super().forward(WrongBackward.apply(x), params)  # type: ignore[no-untyped-call]
        return y, super().forward(x, params)[1]


@pytest.mark.parametrize(
    ("transform", "clause"), [(Cornered, "log-derivative"), (LocallyWrong, "gradients")], ids=["corner", "percent"]
)
def test_an_error_in_a_percent_of_the_points_is_found(transform: type[Transform], clause: str) -> None:
    report = examine_transform(transform, clauses=[clause])
    assert not report.passed
    error = report.results[0].error
    assert error is not None
    x = float(error.inputs.split("x = ")[1].split(";")[0])
    assert 0 < x < 0.15 if transform is Cornered else 0.5 < x < 0.51


def test_structured_points_visit_every_percent_at_every_corner() -> None:
    case = TransformCase(SmoothTransform, SmoothTransform(Interval()), Interval(), 0, "aot_eager")
    x, params = case.structured(torch.float64)
    rows, row = params.unique(dim=0, return_inverse=True)
    visited = torch.zeros((len(rows), 100), dtype=torch.bool)
    visited[row, (100 * x).long()] = True
    assert bool(visited.all())
    signs = (params - SmoothTransform(Interval()).initial_params()).sign() * (params.abs() > 0)
    for first in range(params.shape[1]):
        for second in range(first):
            pairs = {(a, b) for a, b in zip(signs[:, first].tolist(), signs[:, second].tolist(), strict=True)}
            assert {(1, 1), (1, -1), (-1, 1), (-1, -1)} <= pairs


@pytest.mark.parametrize(("transform", "clause"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_a_broken_transform_fails_on_the_right_clause(transform: type[Transform], clause: str) -> None:
    before = TRANSFORM_CLAUSES[: TRANSFORM_CLAUSES.index(clause) + 1]
    with pytest.raises(ConformanceError) as caught:
        check_transform(transform, clauses=before)
    assert caught.value.clause == clause, str(caught.value)
    assert f'breaks the clause "{clause}"' in str(caught.value)


@pytest.mark.parametrize("manifold", [Circle, Interval])
def test_digits_lost_on_one_flank_of_a_bump_are_found(manifold: type[Manifold]) -> None:
    """In float64, and on the other flank, nothing is wrong."""
    with pytest.raises(ConformanceError, match=r"loses digits.*like 1 - s next to s = 1") as caught:
        check_transform(OneMinusSigmoid, manifolds=[manifold], clauses=["float32"])
    assert caught.value.clause == "float32"
    assert caught.value.numbers["error"] > 2 * caught.value.numbers["limit"]
    report = check_transform(SmoothTransform, manifolds=[manifold], clauses=["float32"])
    assert max(report.results[0].numbers.values()) < 64


class InfiniteSlope(AffineTransform):
    """A power, as in the distribution function of a beta-like density: steep beyond any number at 0, or flat."""

    name = "infinite-slope"
    manifolds = frozenset({Interval})
    n_params = 1

    def __init__(self, manifold: Manifold) -> None:
        Transform.__init__(self, manifold)

    def initial_params(self) -> Tensor:
        return torch.zeros(1)

    def _forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_power = torch.tanh(params[..., 0])
        return x ** log_power.exp(), log_power + torch.expm1(log_power) * x.log()

    def _inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_power = -torch.tanh(params[..., 0])
        return y ** log_power.exp(), log_power + torch.expm1(log_power) * y.log()


def test_an_infinite_slope_at_an_end_is_found_and_the_end_named() -> None:
    monotonicity, ends = examine_transform(InfiniteSlope, clauses=["monotonicity", "ends"]).results
    assert "is not finite. Input: x = 0; params" in str(monotonicity.error)
    assert "the log-derivative at the end 0 of the interval must be finite" in str(ends.error)


def test_an_infinite_curvature_at_an_end_is_found() -> None:
    # alone: at extreme parameters its inverse may lose digits of float32, too
    with pytest.raises(ConformanceError) as caught:
        check_transform(SharpEdge, clauses=["curvature"])
    assert caught.value.clause == "curvature"


def test_the_error_names_the_input_and_the_numbers() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_transform(WrongSign, clauses=["log-derivative"])
    error = caught.value
    assert error.numbers["error"] > error.numbers["limit"]
    assert error.inputs.startswith("x = ")
    assert "params = [" in error.inputs
    # the input reproduces the error
    x = float(error.inputs.split("x = ")[1].split(";")[0])
    row = [float(value) for value in error.inputs.split("[")[1].rstrip("]").split(",")]
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    y, log_dydx = WrongSign(Circle()).forward(point, torch.tensor([row], dtype=torch.float64))
    (slope,) = torch.autograd.grad(y.sum(), point)
    assert abs(float((log_dydx - slope.log()).detach())) == pytest.approx(error.numbers["error"], rel=1e-4)


def test_a_report_lists_every_clause_and_goes_on_after_a_broken_one() -> None:
    report = examine_transform(WrongInverseSign, clauses=["kept", "log-derivative", "monotonicity"])
    assert not report.passed
    assert [(r.where, r.clause, r.error is None) for r in report.results] == [
        ("circle", "kept", True),
        ("interval", "kept", True),
        ("circle", "monotonicity", True),
        ("interval", "monotonicity", True),
        ("circle", "log-derivative", False),
        ("interval", "log-derivative", False),
    ]
    assert "BROKEN   circle    log-derivative" in str(report)
    assert "ok       interval  monotonicity     smallest slope" in str(report)


def test_the_largest_force_gradient_is_reported() -> None:
    """Against finite differences of log f' along the grid."""
    transform = functools.partial(SmoothTransform, n_components=1, identity_bounds=(0.5, 0.5))
    report = check_transform(transform, manifolds=[Circle], clauses=["curvature"])
    found = report.results[0].numbers["largest force gradient, extreme"]
    # the steepest and narrowest bump: alpha 5.9, scale 5
    made = transform(Circle())
    params = torch.tensor([0.0, 0.5, 50.0, 50.0, 0.0, 0.0], dtype=torch.float64)
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    _, log_dydx = made.forward(x, params.expand(len(x), -1))
    curvature = (log_dydx[2:] - 2 * log_dydx[1:-1] + log_dydx[:-2]) / (x[1] - x[0]) ** 2
    # 4000 random points meet nearly the steepest one
    assert found == pytest.approx(float(curvature.abs().max()), rel=0.1)


def test_unknown_clauses_and_factories_without_manifolds_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='no clause "speed"'):
        check_transform(AffineTransform, clauses=["speed"])
    with pytest.raises(ConfigurationError, match="pass them"):
        check_transform(lambda manifold: AffineTransform(manifold))
    assert check_transform(lambda manifold: AffineTransform(manifold), manifolds=[Line], clauses=["kept"]).passed


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parents[2] / "examples" / "plugin-transform" / "smoothflow_sine.py"
    specification = importlib.util.spec_from_file_location("smoothflow_sine", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "smoothflow_sine", module)
    specification.loader.exec_module(module)
    return module


def test_the_example_plug_in_keeps_the_contract_and_can_be_registered(example: Any) -> None:
    assert check_transform(example.SineTransform, clauses=TRANSFORM_CLAUSES[:-1]).passed
    registry = Registry()
    registry.register(example, "sine", "smoothflow-sine", "0.1.0")
    assert registry.broken == []
    assert registry.transform("sine") is example.SineTransform
    assert pickle.loads(pickle.dumps(example.SineTransform(Circle()))).max_amplitude == 0.9


def test_transforms_mix_in_one_stack() -> None:
    domain = Product.of(Circle(), ["a", "b"])
    domain = Product((*domain.columns, *Product.of(Interval(), ["c", "d"]).columns))
    domain = Product((*domain.columns, *Product.of(Line(), ["e", "f"]).columns))
    settings = FlowSettings(
        {"circle": "moebius-mixture", "interval": "bspline", "line": "sinh"},
        {"bspline": {"n_bins": 5}},
        interval_pairs=1,
        circle_pairs=1,
        hidden=8,
    )
    flow = build_flow(settings, domain).double()
    x = torch.rand((5, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, log_abs_det = flow.encode(x)
    back, log_back = flow.decode(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-11)
    torch.testing.assert_close(log_abs_det, -log_back, rtol=0, atol=1e-9)
