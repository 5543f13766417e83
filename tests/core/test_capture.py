"""Captured work: recorded once for each shape, replayed with other values, and refused where it cannot be recorded.

On the CPU traced graphs stand for CUDA graphs; the tests marked ``cuda`` replay these.
"""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.capture import CapturedFunction, require_same
from smoothflow.core.errors import CompilationError
from torch import Tensor

F64 = torch.float64
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def generated(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Counted:
    """A function that counts how often it is called from Python: replays do not call it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.calls = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            y = (self.weight * x**3).sum(-1)
            (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient


@pytest.mark.parametrize("device", DEVICES)
def test_a_replay_gives_the_function_at_other_values_without_calling_it(device: str) -> None:
    weight = generated(3).to(device)
    function = Counted(weight)
    captured = CapturedFunction(function, [weight])
    captured(generated(5, 3).to(device))
    calls = function.calls
    x = generated(5, 3, seed=1).to(device)
    y, gradient = captured(x)
    assert function.calls == calls
    # closed forms; rounding of a cube and a sum of three
    torch.testing.assert_close(y, (weight * x**3).sum(-1), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gradient, 3 * weight * x**2, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
def test_results_of_a_replay_are_not_changed_by_the_next(device: str) -> None:
    captured = CapturedFunction(Counted(generated(3).to(device)))
    first, _ = captured(generated(2, 3).to(device))
    kept = first.clone()
    captured(generated(2, 3, seed=1).to(device))
    assert torch.equal(first, kept)


def test_each_shape_and_dtype_has_a_record_and_the_oldest_goes_beyond_the_limit() -> None:
    function = Counted(generated(3))
    captured = CapturedFunction(function, limit=2)
    for n in (1, 2, 3):
        captured(generated(n, 3))
    assert len(captured) == 2
    calls = function.calls
    captured(generated(3, 3))
    captured(generated(2, 3))
    assert function.calls == calls
    # the size used longest ago was forgotten, and is recorded again; now 3 is the oldest
    captured(generated(1, 3))
    assert function.calls > calls
    calls = function.calls
    captured(generated(2, 3))
    assert function.calls == calls
    captured(generated(3, 3))
    assert function.calls > calls
    calls = function.calls
    captured(generated(3, 3).float())
    assert function.calls > calls
    assert len(captured) == 2


@pytest.mark.parametrize("device", DEVICES)
def test_changes_in_place_of_what_is_read_are_seen(device: str) -> None:
    weight = torch.nn.Parameter(generated(3).to(device))
    captured = CapturedFunction(Counted(weight), [weight])
    x = generated(4, 3).to(device)
    before, _ = captured(x)
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(captured(x)[0], 2 * before, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_read_from_another_place_is_recorded_again(device: str) -> None:
    weight = torch.nn.Parameter(generated(3).to(device))
    function = Counted(weight)
    captured = CapturedFunction(function, [weight])
    x = generated(4, 3).to(device)
    before, _ = captured(x)
    calls = function.calls
    weight.data = 3 * weight.data
    torch.testing.assert_close(captured(x)[0], 3 * before, rtol=1e-14, atol=1e-14)
    assert function.calls > calls
    # the record of the other place is of no use
    assert len(captured) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_recording_leaves_what_the_function_changes_as_it_was(device: str) -> None:
    total = torch.zeros(3, dtype=F64, device=device)

    def add(x: Tensor) -> tuple[Tensor, ...]:
        total.add_(x)
        return (2 * total,)

    captured = CapturedFunction(add, [total], [total])
    x = generated(3).to(device)
    for n in (1, 2, 3):
        (found,) = captured(x)
        # once for each call, however often it was tried before the first
        torch.testing.assert_close(total, n * x, rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(found, 2 * n * x, rtol=1e-15, atol=1e-15)


def asks(x: Tensor) -> tuple[Tensor, ...]:
    return (x if bool((x > 0).all()) else -x,)


def takes_out(x: Tensor) -> tuple[Tensor, ...]:
    return (x * float(x.sum()),)


def goes_by_what_it_finds(x: Tensor) -> tuple[Tensor, ...]:
    return (x[: int(torch.nonzero(x[:, 0] > 0)[0, 0])],)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [asks, takes_out, goes_by_what_it_finds])
def test_steps_that_depend_on_values_are_refused(function: object, device: str) -> None:
    with pytest.raises(CompilationError, match=r"cannot be captured: .*steps that depend on values"):
        CapturedFunction(function)(generated(4, 3).to(device))  # type: ignore[arg-type]


def test_a_record_that_ignores_its_arguments_is_refused() -> None:
    kept: list[Tensor] = []

    def remembers(x: Tensor) -> tuple[Tensor, ...]:
        # what is traced first is kept: a record of it would be of those values for ever
        kept.append(x.detach().clone())
        return (torch.as_tensor(kept[0].tolist()) if len(kept) > 1 else 2 * x,)

    with pytest.raises(CompilationError, match="other numbers"):
        CapturedFunction(remembers)(generated(4, 3))


def test_numbers_are_compared_with_the_largest_and_not_a_number_with_itself() -> None:
    b = torch.tensor([1.0, 1e-9, torch.nan], dtype=F64)
    require_same([b + torch.tensor([0, 5e-10, 0], dtype=F64)], [b])
    with pytest.raises(CompilationError, match="other numbers"):
        require_same([b + torch.tensor([0, 5e-9, 0], dtype=F64)], [b])
    with pytest.raises(CompilationError, match="other numbers"):
        require_same([b.nan_to_num()], [b])
    require_same([torch.zeros(0)], [torch.zeros(0)])
