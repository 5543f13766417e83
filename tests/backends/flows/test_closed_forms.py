import math

import numpy as np
import pytest
import torch
from smoothflow.backends.flows.affine import AffineTransform
from smoothflow.backends.flows.analytic import CubicConjugationTransform, CubicRationalTransform, SinhTransform
from smoothflow.backends.flows.moebius import MoebiusMixtureTransform, MoebiusTransform
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.manifolds import Circle, Line
from smoothflow.core.transforms import Transform

N = 200


def draw(transform: Transform, seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, generator=generator, dtype=torch.float64)
    return scale * x, torch.randn((N, transform.n_params), generator=generator, dtype=torch.float64)


def test_affine_transform_is_its_formula() -> None:
    transform = AffineTransform(Line(), max_log_scale=0.5, max_shift=3.0)
    x, params = draw(transform, 0)
    s, t = 0.5 * np.tanh(params[:, 0].numpy()), 3 * np.tanh(params[:, 1].numpy())
    y, log_dydx = transform.forward(x, params)
    np.testing.assert_allclose(y.numpy(), np.exp(s) * x.numpy() + t, rtol=0, atol=1e-14)
    np.testing.assert_allclose(log_dydx.numpy(), s, rtol=0, atol=1e-15)


def test_affine_on_the_circle_is_a_moebius_map_and_a_rotation() -> None:
    transform = AffineTransform(Circle(), max_log_scale=1.5, max_shift=0.7)
    x, params = draw(transform, 9)
    s = 1.5 * np.tanh(params[:, 0].numpy())
    t = 0.7 * np.tanh(params[:, 1].numpy()) / (1 + np.exp(-params[:, 2].numpy()))
    y, log_dydx = transform.forward(x, params)
    # a Moebius map of real w fixes 1 and -1
    w = np.tanh(s / 2)
    z = np.exp(2j * np.pi * x.numpy())
    h = (z - w) / (1 - w * z)
    np.testing.assert_allclose(np.exp(2j * np.pi * (y.numpy() - t)), h, rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_dydx.exp().numpy(), (1 - w**2) / np.abs(z - w) ** 2, rtol=1e-12)
    assert bool((y.abs() <= 0.5).all())


def test_affine_on_a_small_arc_is_that_of_the_line() -> None:
    line, circle = AffineTransform(Line()), AffineTransform(Circle())
    width = 1e-4
    x, params = draw(line, 3)
    on_circle = torch.cat([params, torch.full((N, 1), math.log(width / (1 - width)), dtype=torch.float64)], dim=-1)
    expected, log_expected = line.forward(x, params)
    y, log_dydx = circle.forward(width * x, on_circle)
    # the curvature of the circle: the square of the angle
    torch.testing.assert_close(y / width, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_dydx, log_expected, rtol=0, atol=1e-4)


def test_moebius_is_the_complex_map() -> None:
    transform = MoebiusTransform(Circle())
    x, params = draw(transform, 1)
    plane = params.numpy()
    w = 0.95 * plane / np.sqrt(1 + (plane**2).sum(1, keepdims=True))
    w = w[:, 0] + 1j * w[:, 1]
    z = np.exp(2j * np.pi * x.numpy())
    h = (1 - np.abs(w) ** 2) / np.abs(z - w) ** 2 * (z - w) - w
    y, log_dydx = transform.forward(x, params)
    np.testing.assert_allclose(np.exp(2j * np.pi * y.numpy()), h, rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_dydx.exp().numpy(), (1 - np.abs(w) ** 2) / np.abs(z - w) ** 2, rtol=1e-12)
    # f_w and f_{-w} undo each other
    back, _ = transform.forward(y, -params)
    assert float(Circle().difference(back, x).abs().max()) < 1e-13


def test_a_moebius_mixture_averages_deviations() -> None:
    mixture, single = MoebiusMixtureTransform(Circle(), n_components=2), MoebiusTransform(Circle())
    x, params = draw(mixture, 2)
    weights = torch.softmax(params[:, :2], dim=-1)
    expected = x + params[:, 6]
    for k in range(2):
        image, _ = single.forward(x, params[:, 2 + 2 * k : 4 + 2 * k])
        # a Moebius transformation never moves a point by half a turn or more
        expected = expected + weights[:, k] * Circle().difference(image, x)
    y, _ = mixture.forward(x, params)
    assert float(Circle().difference(y, expected).abs().max()) < 1e-13


def test_cubic_rational_is_inverted_by_the_root_of_the_cubic() -> None:
    transform = CubicRationalTransform(Line())
    y, params = draw(transform, 3, scale=5.0)
    x, _ = transform.inverse(y, params)
    sigmoid = 1 / (1 + np.exp(-params.numpy()))
    a, b = -0.8 + 4.8 * sigmoid[:, 0], np.exp(-2 + 4 * sigmoid[:, 1])
    t = 3 * np.tanh(params[:, 2].numpy())
    for i in range(N):
        # b u^3 - b v u^2 + (1 + a) u - v = 0 with v = y - t
        v = y[i].item() - t[i]
        roots = np.roots([b[i], -b[i] * v, 1 + a[i], -v])
        real = roots[np.abs(roots.imag) < 1e-7].real
        # companion matrices lose digits near double roots
        assert min(abs(real + t[i] - x[i].item())) < 1e-7
    torch.testing.assert_close(transform.forward(x, params)[0], y, rtol=0, atol=1e-13)


def test_sinh_is_its_formula_and_keeps_its_digits_far_out() -> None:
    transform = SinhTransform(Line(), width=0.7)
    x, params = draw(transform, 4, scale=3.0)
    b, mu, nu = (np.array([3.0, 1.0, 1.0]) * np.tanh(params.numpy())).T
    y, _ = transform.forward(x, params)
    expected = 0.7 * np.arcsinh(np.exp(mu) * (np.exp(nu) * np.sinh(x.numpy() / 0.7) + b))
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-13)
    for dtype in (torch.float32, torch.float64):
        far = torch.tensor([-1e4, -500.0, -14.1, -13.9, 13.9, 14.1, 500.0, 1e4], dtype=dtype)
        image, log_dydx = transform.forward(far, params[:8].to(dtype))
        # y = x +- a (mu + nu) + terms of size exp(-|x| / a)
        limit = far + torch.sign(far) * 0.7 * torch.from_numpy(mu + nu)[:8].to(dtype)
        torch.testing.assert_close(image, limit, rtol=1e-6, atol=1e-6)
        assert float(log_dydx.abs().max()) < 1e-6
        back, _ = transform.inverse(image, params[:8].to(dtype))
        torch.testing.assert_close(back, far, rtol=10 * torch.finfo(dtype).eps, atol=1e-14)


def test_cubic_conjugation_is_its_formula() -> None:
    transform = CubicConjugationTransform(Line())
    x, params = draw(transform, 5, scale=2.0)
    b = 2 * torch.tanh(params[:, 0])
    cubic = 0.01 + 0.49 * torch.sigmoid(params[:, 1])
    t = 2 * torch.tanh(params[:, 2])
    y, _ = transform.forward(x, params)

    def g(u: torch.Tensor) -> torch.Tensor:
        return u + cubic * u**3

    torch.testing.assert_close(g(y - t), g(x - t) + b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (AffineTransform, {"max_log_scale": 0.0}),
        (AffineTransform, {"max_shift": math.inf}),
        (CubicRationalTransform, {"amplitude_bounds": (-1.0, 2.0)}),
        (CubicRationalTransform, {"log_width_bounds": (1.0, 1.0)}),
        (SinhTransform, {"width": -1.0}),
        (CubicConjugationTransform, {"cubic_bounds": (0.0, 1.0)}),
    ],
)
def test_options_of_the_line_that_cannot_work_are_refused(
    transform: type[AffineTransform], options: dict[str, float]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        transform(Line(), **options)


def test_options_of_the_circle_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_radius"):
        MoebiusTransform(Circle(), max_radius=1.0)
    with pytest.raises(ConfigurationError, match="n_components"):
        MoebiusMixtureTransform(Circle(), n_components=0)
