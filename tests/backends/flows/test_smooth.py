import math

import numpy as np
import pytest
import scipy.integrate
import torch
from smoothflow.backends.flows.smooth import SmoothTransform
from smoothflow.core.errors import ConfigurationError, ManifoldError
from smoothflow.core.manifolds import Circle, Interval
from torch import Tensor

K = 3


def paper_step(t: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """rho(t) / (rho(t) + rho(1 - t)) with rho(t) = exp(-1 / (a t^beta)), as the paper writes it."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        steepness = alpha * 2 ** (1 - beta) / beta
        rise = np.where(t > 0, np.exp(-steepness * np.abs(t) ** -beta), 0.0)
        fall = np.where(t < 1, np.exp(-steepness * np.abs(1 - t) ** -beta), 0.0)
        return np.where(t <= 0, 0.0, np.where(t >= 1, 1.0, rise / (rise + fall)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def row(transform: SmoothTransform, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(transform.n_params, generator=generator, dtype=torch.float64)


def unpack(params: Tensor, circle: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    weights, places, scales, alphas = params[: 4 * K].reshape(4, K).numpy()
    weights = np.exp(weights) / np.exp(weights).sum()
    scales = 1 + 4 * sigmoid(scales) if circle else np.exp(0.3 + 1.2 * np.tanh(scales / 2))
    places = places if circle else sigmoid(places)
    return weights, places, scales, 0.87 + 5.03 * sigmoid(alphas), float(0.02 + 0.96 * sigmoid(params[4 * K].numpy()))


@pytest.mark.parametrize("beta", [1, 2])
def test_on_the_interval_it_is_the_papers_mixture(beta: int) -> None:
    transform = SmoothTransform(Interval(), n_components=K, beta=beta)  # type: ignore[arg-type]
    params = row(transform)
    weights, places, scales, alphas, c = unpack(params, circle=False)
    x = np.linspace(0, 1, 301)

    def mixture(x: np.ndarray) -> np.ndarray:
        steps = [paper_step((x - m) * s + 0.5, a, beta) for m, s, a in zip(places, scales, alphas, strict=True)]
        return np.asarray(weights @ np.stack(steps))

    ends = mixture(np.array([0.0, 1.0]))
    expected = c * x + (1 - c) * (mixture(x) - ends[0]) / (ends[1] - ends[0])
    y, log_dydx = transform.forward(torch.from_numpy(x), params.expand(301, -1))
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-14)
    # the density integrates to the distribution; Simpson's rule on 301 points
    integral = scipy.integrate.cumulative_simpson(log_dydx.exp().numpy(), x=x, initial=0)
    np.testing.assert_allclose(integral, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [1, 2])
def test_on_the_circle_bumps_are_wrapped(beta: int) -> None:
    transform = SmoothTransform(Circle(), n_components=K, beta=beta)  # type: ignore[arg-type]
    params = row(transform, 1)
    weights, places, scales, alphas, c = unpack(params, circle=True)
    x = np.linspace(0, 1, 301)
    # one whole step for each turn, so that the sum rises by one from x to x + 1
    expected = c * x
    for weight, m, s, a in zip(weights, places, scales, alphas, strict=True):
        expected = expected + (1 - c) * weight * sum(
            paper_step((x - m + turn) * s + 0.5, a, beta) for turn in range(-5, 6)
        )
    y, log_dydx = transform.forward(torch.from_numpy(x), params.expand(301, -1))
    difference = y.numpy() - expected
    # up to a rotation and whole turns
    difference = difference - difference[0]
    np.testing.assert_allclose(difference - np.round(difference), 0, rtol=0, atol=1e-13)
    turned = params.clone()
    turned[4 * K + 1] += 0.3
    other, _ = transform.forward(torch.from_numpy(x), turned.expand(301, -1))
    np.testing.assert_allclose(Circle().difference(other, y).numpy(), 0.3, rtol=0, atol=1e-13)
    density = log_dydx.exp().numpy()
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=x), 1.0, rtol=0, atol=1e-5)


def test_whole_turns_of_a_location_change_nothing() -> None:
    transform = SmoothTransform(Circle(), n_components=K)
    params = row(transform, 2)
    turned = params.clone()
    turned[K : 2 * K] += torch.tensor([1.0, -2.0, 7.0])
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    first, second = (transform.forward(x, p.expand(50, -1)) for p in (params, turned))
    torch.testing.assert_close(
        Circle().difference(first[0], second[0]), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-13
    )
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("manifold", [Circle(), Interval()])
def test_every_parameter_is_trainable(manifold: Circle | Interval) -> None:
    transform = SmoothTransform(manifold, n_components=K, beta="trainable")
    params = row(transform, 3).expand(500, -1).clone().requires_grad_(True)
    x = torch.linspace(0, 1, 500, dtype=torch.float64)
    y, log_dydx = transform.forward(x, params)
    (gradient,) = torch.autograd.grad((torch.sin(6 * y) + log_dydx**2).sum(), params)
    assert bool((gradient.abs().amax(0) > 1e-6).all())


@pytest.mark.parametrize("manifold", [Circle(), Interval()])
def test_training_starts_near_the_identity(manifold: Circle | Interval) -> None:
    transform = SmoothTransform(manifold)
    x = torch.linspace(0, 1, 400, dtype=torch.float64)
    y, log_dydx = transform.forward(x, transform.initial_params().double().expand(400, -1))
    assert float(manifold.difference(y, x).abs().max()) < 0.01
    assert float(log_dydx.abs().max()) < 0.3
    assert float(transform.initial_params().abs().max()) < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1, 2, "trainable"])
def test_bumps_end_flat_to_the_fourth_order(beta: object, dtype: torch.dtype) -> None:
    """One bump on the circle, half a turn wide: outside of it f(x) = c x + constant exactly, inside nothing is NaN."""
    transform = SmoothTransform(Circle(), n_components=1, beta=beta, scale_bounds=(2.0, 2.0))  # type: ignore[arg-type]
    params = torch.zeros(transform.n_params, dtype=dtype)
    edges = torch.tensor([0.25, 0.7501, 0.2499, 0.75, 0.25 + 1e-6, 0.2505, 0.252], dtype=dtype)
    outside = torch.tensor([0.0, 0.1, 0.24, 0.76, 0.9, 1.0], dtype=dtype)
    x = torch.cat([outside, edges, 0.25 + 0.5 * torch.linspace(0, 1, 1000, dtype=dtype)]).requires_grad_(True)
    params[1] = 0.5
    value = transform.forward(x, params.expand(len(x), -1))[1]
    identity = math.log(0.5)
    torch.testing.assert_close(value[: len(outside)], torch.full_like(outside, identity), rtol=0, atol=1e-6)
    for _ in range(4):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        assert bool(torch.isfinite(value).all())
        assert bool((value[: len(outside)] == 0).all())


@pytest.mark.parametrize("beta", [1, 2, "trainable"])
def test_float32_keeps_its_digits_on_both_flanks_of_a_bump(beta: object) -> None:
    """The gradient of the force of one steep bump against float64, on its lower and on its upper flank."""
    transform = SmoothTransform(Circle(), n_components=1, beta=beta)  # type: ignore[arg-type]
    params = torch.zeros(transform.n_params, dtype=torch.float64)
    # the middle of the turn, the narrowest, softest bump, and as little of the identity as there may be
    params[1:5] = torch.tensor([0.5, 50.0, -50.0, -50.0])
    errors, sizes = [], []
    for low, high in ((0.4006, 0.47), (0.53, 0.5994)):
        x = torch.linspace(low, high, 500, dtype=torch.float32)
        found = []
        for dtype in (torch.float32, torch.float64):
            at = x.to(dtype).requires_grad_(True)
            value = transform.forward(at, params.to(dtype))[1]
            for _ in range(2):
                (value,) = torch.autograd.grad(value.sum(), at, create_graph=True)
            found.append(value.detach().double())
        errors.append(float((found[0] - found[1]).abs().max()))
        sizes.append(float(found[1].abs().max()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    # rounding of x times the third derivative, 1e6 at most; s (1 - s) is off by the whole gradient
    assert max(errors) < 1e-3 * max(sizes)


def test_the_density_stays_between_its_bounds() -> None:
    generator = torch.Generator().manual_seed(4)
    for manifold in (Circle(), Interval()):
        transform = SmoothTransform(manifold)
        params = 30 * torch.randn((5000, transform.n_params), generator=generator, dtype=torch.float64)
        _, log_dydx = transform.forward(torch.rand(5000, generator=generator, dtype=torch.float64), params)
        assert float(log_dydx.min()) >= math.log(0.02) - 1e-12
        # slope 2 alpha s at the centre of the narrowest bump; up to half of a bump lies beyond an end of the interval
        highest = 2 * 5.9 * (5.0 if isinstance(manifold, Circle) else 2 * math.exp(1.5))
        assert float(log_dydx.max()) <= math.log(highest) + 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 0},
        {"beta": 3},
        {"scale_bounds": (0.5, 3.0)},
        {"scale_bounds": (3.0, 2.0)},
        {"alpha_bounds": (0.1, 2.0)},
        {"identity_bounds": (0.0, 1.0)},
        {"identity_bounds": (0.1, 1.1)},
        {"alpha_bounds": (1.0, math.inf)},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SmoothTransform(Circle(), **options)  # type: ignore[arg-type]


def test_shapes_and_half_precision_are_refused() -> None:
    transform = SmoothTransform(Circle())
    x, params = torch.zeros(3), torch.zeros(3, transform.n_params)
    with pytest.raises(ManifoldError, match=r"float32 or float64.*float16"):
        transform.forward(x.half(), params.half())
    with pytest.raises(ManifoldError, match="takes 34 parameters per element"):
        transform.inverse(x, params[:, :-1])
