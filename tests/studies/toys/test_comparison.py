"""Toy comparisons: smoothness measured against closed forms, flows that fit, and folders that are complete."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from smoothflow.core.display import count_parameters
from smoothflow.core.errors import ConfigurationError, ManifoldError, UnknownNameError
from smoothflow.core.manifolds import Circle, Interval, Product
from smoothflow.potentials.toys import TOYS
from smoothflow.studies.toys.comparison import compare_on_target, divergence, toy_table
from smoothflow.studies.toys.smoothness import forces_and_gradients, largest_force_gradient, largest_force_jump
from smoothflow.studies.toys.training import ExactSamples, ToySettings, toy_flow, train_on_toy
from torch import Tensor

QUICK = ToySettings(steps=20, batch_size=64, n_parameters=4000, pairs=1, n_evaluation=400)


def wells(x: Tensor) -> Tensor:
    """log p = -3 x^2 - x y + sin y: forces and their gradients are known."""
    return -3 * x[:, 0] ** 2 - x[:, 0] * x[:, 1] + torch.sin(x[:, 1])


def test_forces_and_gradients_of_a_closed_form() -> None:
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forces, gradients = forces_and_gradients(wells, x)
    a, b = x.unbind(-1)
    torch.testing.assert_close(forces, torch.stack([-6 * a - b, -a + b.cos()], -1))
    expected = torch.stack([torch.full_like(a, -6.0), -torch.ones_like(a), -torch.ones_like(a), -b.sin()], -1)
    torch.testing.assert_close(gradients, expected.reshape(-1, 2, 2))
    norms = torch.linalg.eigvalsh(expected.reshape(-1, 2, 2)).abs().amax()
    assert largest_force_gradient(wells, x) == pytest.approx(float(norms))


def test_a_constant_force_has_no_gradient() -> None:
    assert largest_force_gradient(lambda x: 2 * x[:, 0] - x[:, 1], torch.zeros(3, 2, dtype=torch.float64)) == 0


@pytest.mark.parametrize("place", [0.3141, 0.77, 0.0, 0.5])
def test_a_jump_of_the_force_is_found_at_its_size(place: float) -> None:
    def kinked(x: Tensor) -> Tensor:
        distance = Circle().difference(x[:, 1], torch.full_like(x[:, 1], place))
        # the sharp but smooth ripple must not hide the kink
        return 0.35 * distance.abs() + torch.cos(2 * math.pi * x[:, 0]) + 0.02 * torch.sin(16 * math.pi * x[:, 1])

    domain = Product.of(Circle(), ["a", "b"])
    through = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    # the kinks at `place` and opposite to it are of 0.7; 2e-9 times the ripple's gradient of 50 is the tolerance
    assert largest_force_jump(kinked, domain, through) == pytest.approx(0.7, abs=1e-6)


def test_smooth_forces_have_no_jump() -> None:
    def smooth(x: Tensor) -> Tensor:
        return torch.exp(torch.cos(6 * math.pi * x).sum(-1))

    domain = Product.of(Interval(), ["a", "b"])
    # 2e-9 times a gradient of at most e^2 (6 pi)^2 (1 + 1) = 5300
    assert largest_force_jump(smooth, domain, torch.full((1, 2), 0.4, dtype=torch.float64)) < 2e-5


@pytest.mark.parametrize("transform", ["smooth", "spline", "affine", "bspline", "moebius-mixture", "bernstein", "sinh"])
def test_every_transform_finds_a_way_to_the_torus(transform: str) -> None:
    target = TOYS["torus-multimodal"]()
    flow = toy_flow(target.domain, transform, QUICK)
    assert flow.domain == target.domain
    assert count_parameters(flow) <= QUICK.n_parameters
    # the next width would break the budget: no flow wastes more than a tenth of it
    assert count_parameters(flow) > 0.9 * QUICK.n_parameters
    samples, log_prob = flow.sample(100, torch.Generator().manual_seed(0))
    assert target.domain.columns[0].manifold.contains(samples).all()
    # rounding of the numerical inverse, and of the normal quantile near the ends
    torch.testing.assert_close(flow.log_prob(samples), log_prob, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("transform", ["affine", "bernstein", "smooth"])
def test_a_flow_on_the_torus_is_normalized(transform: str) -> None:
    flow = toy_flow(TOYS["torus-unimodal"]().domain, transform, QUICK)
    axis = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    with torch.no_grad():
        total = flow.log_prob(torch.cartesian_prod(axis, axis)).exp().mean()
    # midpoint rule on 300 x 300 points; an affine density that bends at the cut is integrated to 1e-3
    assert float(total) == pytest.approx(1.0, abs=3e-3)


def test_the_divergence_is_that_of_the_closed_form_and_surer_than_the_plain_mean() -> None:
    # p and q are normal with mean 0 and 0.1 and standard deviation 1 and 1.1
    x = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_ratio = -0.5 * ((x - 0.1) / 1.1) ** 2 - math.log(1.1) + 0.5 * x**2
    exact = math.log(1.1) + (1 + 0.1**2) / (2 * 1.1**2) - 0.5
    found = divergence(log_ratio)
    # four standard errors
    assert found.value == pytest.approx(exact, abs=4 * found.error)
    assert found.error < 0.3 * float(log_ratio.std()) / math.sqrt(len(x))


def test_circles_cannot_be_made_of_intervals() -> None:
    with pytest.raises(ManifoldError, match="moebius"):
        toy_flow(TOYS["rings"]().domain, "moebius", QUICK)


def test_a_budget_too_small_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="n_parameters"):
        toy_flow(TOYS["rings"]().domain, "smooth", ToySettings(n_parameters=10))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"n_evaluation": 1}, {"learning_rate": 0.0}, {"force_weight": -1.0}, {"batch_size": 0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ToySettings(**wrong)  # type: ignore[arg-type]


def test_every_flow_sees_the_same_fresh_batches() -> None:
    target = TOYS["torus-correlated"]()
    settings = ToySettings(steps=120, batch_size=16)
    batches = list(ExactSamples(target, settings))
    assert [len(batch) for batch in batches] == [16] * 120
    points = torch.cat(batches)
    assert len(points.unique(dim=0)) == len(points)
    assert torch.equal(points, torch.cat(list(ExactSamples(target, settings))))


@pytest.mark.parametrize("force_weight", [0.0, 0.01])
def test_training_lowers_the_divergence(force_weight: float) -> None:
    target = TOYS["torus-unimodal"]()
    settings = ToySettings(steps=150, batch_size=256, n_parameters=8000, pairs=1, force_weight=force_weight)
    flow = toy_flow(target.domain, "smooth", settings)
    x, log_p = target.sample(4000, torch.Generator().manual_seed(1))
    before = float((log_p - flow.log_prob(x)).detach().mean())
    train_on_toy(flow, target, settings)
    after = float((log_p - flow.log_prob(x)).detach().mean())
    # a uniform density misses log(2 pi)^2 - 3.2548 = 0.42 kT
    assert after < 0.03 < 0.3 < before


def test_a_comparison_leaves_a_complete_folder(tmp_path: Path) -> None:
    stages = []
    results = compare_on_target(
        "torus-multimodal", ["smooth", "affine"], QUICK, tmp_path / "run", lambda p: stages.append(p.stage)
    )
    assert [result.transform for result in results] == ["smooth", "affine"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "comparison.json",
        "maps.png",
        "profiles.png",
        "report.html",
    }
    assert {"train smooth", "evaluate smooth", "train affine", "evaluate affine"} == set(stages)
    written = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert written["entropy"] == pytest.approx(3.602380 - 2 * math.log(2 * math.pi), abs=1e-5)
    assert [row["transform"] for row in written["transforms"]] == ["smooth", "affine"]
    assert written["transforms"] == [result.to_dict() for result in results]
    for result in results:
        assert result.evaluation is not None
        assert result.evaluation.forward_kl.value > -3 * result.evaluation.forward_kl.error
        assert 0 < result.evaluation.ess.value <= 1
    table = toy_table(results)
    assert table.columns == ("", "smooth", "affine")


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    first, second = (
        compare_on_target("rings-periodic", ["spline"], QUICK, tmp_path / name)[0].evaluation for name in ("a", "b")
    )
    assert first == second


def test_a_training_that_breaks_down_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    wild = ToySettings(
        steps=20, batch_size=64, n_parameters=4000, pairs=1, n_evaluation=400, learning_rate=1e300, force_weight=1e9
    )
    results = compare_on_target("torus-unimodal", ["sinh", "smooth"], wild, tmp_path)
    assert len(results) == 2
    assert any(result.breakdown for result in results)
    assert (tmp_path / "report.html").exists()
    assert "broke down" in str(toy_table(results).rows)


def test_unknown_targets_and_transforms_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="torus-multimodal"):
        compare_on_target("torus-multimodel", ["smooth"], QUICK, tmp_path)
    with pytest.raises(UnknownNameError, match="spline"):
        compare_on_target("rings", ["splin"], QUICK, tmp_path)
