import numpy as np
import pytest
import scipy.interpolate
import torch
from smoothflow.backends.flows.bernstein import BernsteinTransform
from smoothflow.backends.flows.bspline import BSplineTransform
from smoothflow.backends.flows.spline import SplineTransform
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.manifolds import Circle, Interval

X = np.linspace(0, 1, 401)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(x) / np.exp(x).sum())


def random_row(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def rational_quadratic(x: float, xs: np.ndarray, ys: np.ndarray, ds: np.ndarray) -> float:
    """Durkan et al. 2019, eq. (4), one number at a time."""
    k = min(max(int(np.searchsorted(xs, x, side="right")) - 1, 0), len(xs) - 2)
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, xi = h / w, (x - xs[k]) / w
    numerator = h * (s * xi**2 + ds[k] * xi * (1 - xi))
    return float(ys[k] + numerator / (s + (ds[k + 1] + ds[k] - 2 * s) * xi * (1 - xi)))


@pytest.mark.parametrize("manifold", [Interval(), Circle()])
def test_the_rational_quadratic_spline_is_durkans(manifold: Interval | Circle) -> None:
    n = 5
    transform = SplineTransform(manifold, n_bins=n, min_bin=0.05)
    row = random_row(transform.n_params, 0)
    lengths = [np.concatenate([[0], np.cumsum(0.95 * softmax(row[a : a + n]) + 0.05 / n)]) for a in (0, n)]
    slopes = np.exp(4 * np.tanh(row[2 * n : 3 * n + 1] / 4))
    if isinstance(manifold, Circle):
        slopes[-1] = slopes[0]
    expected = np.array([rational_quadratic(x, *lengths, slopes) for x in X])
    y, _ = transform.forward(torch.from_numpy(X), torch.from_numpy(row).expand(len(X), -1))
    if isinstance(manifold, Circle):
        turned = y.numpy() - expected - row[-1]
        np.testing.assert_allclose(turned - np.round(turned), 0, rtol=0, atol=1e-13)
    else:
        np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-13)


def test_the_spline_is_inverted_in_closed_form_with_exact_gradients() -> None:
    transform = SplineTransform(Interval())
    generator = torch.Generator().manual_seed(1)
    params = torch.randn((50, transform.n_params), generator=generator, dtype=torch.float64)
    y = torch.rand(50, generator=generator, dtype=torch.float64).requires_grad_(True)
    x, log_dxdy = transform.inverse(y, params)
    (slope,) = torch.autograd.grad(x.sum(), y)
    _, log_dydx = transform.forward(x.detach(), params)
    torch.testing.assert_close(slope.log(), -log_dydx, rtol=0, atol=1e-11)
    torch.testing.assert_close(log_dxdy, -log_dydx, rtol=0, atol=1e-11)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_the_b_spline_on_the_interval_is_scipys(degree: int) -> None:
    n = 7
    transform = BSplineTransform(Interval(), n_bins=n, degree=degree)
    row = random_row(transform.n_params, degree)
    edges = np.concatenate([[0], np.cumsum(0.9 * softmax(row[:n]) + 0.1 / n)])
    edges[-1] = 1
    knots = np.concatenate([[0] * degree, edges, [1] * degree])
    spans = (knots[degree + 1 : -1] - knots[1 : -degree - 1]) / degree
    slopes = np.exp(4 * np.tanh(row[n:] / 4))
    slopes /= (slopes * spans).sum()
    reference = scipy.interpolate.BSpline(knots, np.concatenate([[0], np.cumsum(slopes * spans)]), degree)
    y, log_dydx = transform.forward(torch.from_numpy(X), torch.from_numpy(row).expand(len(X), -1))
    np.testing.assert_allclose(y.numpy(), reference(X), rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_dydx.exp().numpy(), reference.derivative()(X), rtol=1e-11)


def test_the_b_spline_on_the_circle_is_scipys() -> None:
    n, degree = 6, 3
    transform = BSplineTransform(Circle(), n_bins=n)
    row = random_row(transform.n_params, 3)
    turn = np.concatenate([[0], np.cumsum(0.9 * softmax(row[:n]) + 0.1 / n)])[:-1]
    # enough copies of the period that the middle one does not feel the ends
    knots = np.concatenate([turn + k for k in range(-3, 5)])
    slopes = np.exp(4 * np.tanh(row[n : 2 * n] / 4))
    # slope i belongs to the p bins that end where bin i ends
    first = np.concatenate([turn[n - degree + 1 :] - 1, turn, 1 + turn])
    spans = (first[degree : degree + n] - first[:n]) / degree
    slopes /= (slopes * spans).sum()
    # the first slope's support starts degree - 1 knots before 0
    index = (np.arange(len(knots) - degree) - (3 * n - degree + 1)) % n
    density = scipy.interpolate.BSpline(knots, slopes[index], degree - 1)
    y, log_dydx = transform.forward(torch.from_numpy(X), torch.from_numpy(row).expand(len(X), -1))
    np.testing.assert_allclose(log_dydx.exp().numpy(), density(X), rtol=1e-11)
    turned = y.numpy() - y.numpy()[0] - density.antiderivative()(X) + density.antiderivative()(0)
    np.testing.assert_allclose(turned - np.round(turned), 0, rtol=0, atol=1e-12)


def test_equal_slopes_give_the_identity_whatever_the_knots() -> None:
    for manifold in (Interval(), Circle()):
        transform = BSplineTransform(manifold)
        params = torch.zeros(transform.n_params, dtype=torch.float64)
        params[: transform.n_bins] = torch.from_numpy(random_row(transform.n_bins, 5))
        x = torch.from_numpy(X)
        y, log_dydx = transform.forward(x, params.expand(len(X), -1))
        assert float(manifold.difference(y, x).abs().max()) < 1e-14
        assert float(log_dydx.abs().max()) < 1e-13


def test_the_bernstein_polynomial_is_scipys() -> None:
    transform = BernsteinTransform(Interval(), degree=6)
    row = random_row(6, 6)
    coefficients = np.concatenate([[0], np.cumsum(0.99 * softmax(row) + 0.01 / 6)])
    reference = scipy.interpolate.BPoly(coefficients[:, None], [0, 1])
    y, log_dydx = transform.forward(torch.from_numpy(X), torch.from_numpy(row).expand(len(X), -1))
    np.testing.assert_allclose(y.numpy(), reference(X), rtol=0, atol=1e-14)
    np.testing.assert_allclose(log_dydx.exp().numpy(), reference.derivative()(X), rtol=1e-12)


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (SplineTransform, {"n_bins": 0}),
        (SplineTransform, {"min_bin": 1.0}),
        (SplineTransform, {"max_log_derivative": 0.0}),
        (BSplineTransform, {"degree": 1}),
        (BSplineTransform, {"n_bins": 3}),
        (BSplineTransform, {"min_bin": 0.0}),
        (BSplineTransform, {"max_log_slope": -1.0}),
        (BernsteinTransform, {"degree": 0}),
        (BernsteinTransform, {"min_derivative": 0.0}),
    ],
)
def test_options_that_cannot_work_are_refused(transform: type[SplineTransform], options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        transform(Interval(), **options)  # type: ignore[arg-type]
