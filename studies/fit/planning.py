"""The sizes of all stages, from the molecule and from measured speed and quality."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.architecture import FlowSettings
from ...core.potential import Potential
from ...molecules.frames import Frames
from ...training.config import RefiningSettings, TrainSettings
from ...training.losses import damped, force_error, likelihood_and_forces
from ...training.run import initial_potential

TIMESTEP = 0.001
FRAME_INTERVAL = 0.1
EQUILIBRATION = 2.0
"""Times of dynamics, ps: of a step, between frames, and before the first one."""

MD_SHARE, FIRST_SHARE = 0.12, 0.25
"""Shares of the budget for dynamics, and at most for a first model on its frames."""

NEAR, EARLY_SHARE = 0.8, 0.35
"""A model whose sampling efficiency is this share of the target gets a short round first, which takes that share of the
time left without that of compiling; another one all the time that is left."""

LAST_SHARE = 0.2
"""Share of the budget that must be left for a round to be worth its start, but for the first one."""

MOST_FRAMES, FEWEST_FRAMES = 40_000, 400
ENOUGH_INDEPENDENT = 2000
"""Independent frames that suffice for a first model; refining has as many samples as it needs."""

BATCH = 256
COMPILED = 0.45
"""Time of a compiled step in units of an eager one."""

COMPILING, COMPILED_BEFORE = 280.0, 60.0
"""Time that compiling takes when a training begins, s: of code that is new, and of code that a round before had."""

MOST_PASSES = 8
"""Passes over the frames in the training of a first model: with more of them it learns the frames by heart."""

STARTING = 15.0
"""Time of a training before its first step, s."""

N_REFRESHES = 12
"""Pools in a round of refining."""

DRAWING_SHARE = 0.35
"""Time for samples in units of that for training steps, unless samples would be reused too often."""

MOST_USES = 6
"""Largest number of times that a sample is trained on."""

WARM_UP = 100
"""Largest number of steps in which a round's learning rate rises."""

LARGEST_POOL = 500_000
FEWEST_STEPS = 100


def seconds_per_energy(reference: Potential, positions: Float[Tensor, "1 atoms 3"]) -> float:
    """Time of one energy with forces, on one core, measured for a second or three evaluations."""
    reference.energy_and_forces(positions)
    began, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - began < 1.0:
        reference.energy_and_forces(positions)
        n += 1
    return (time.perf_counter() - began) / n


def architecture(n_internal: int, seed: int) -> FlowSettings:
    """A flow for a number of internal coordinates: wider conditioners for more of them."""
    hidden = min(256, max(64, 16 * math.ceil(1.6 * n_internal / 16)))
    return FlowSettings(hidden=hidden, seed=seed)


@dataclass(frozen=True)
class Pace:
    """How fast models are trained here.

    Attributes:
        per_step: Time of a step of training on one core, not compiled, s.
        cores: Cores that share a training.
        can_compile: Whether there is a compiler.
    """

    per_step: float
    cores: int
    can_compile: bool

    @property
    def shared_step(self) -> float:
        """Time of a step, not compiled, that all cores share, s."""
        # of several processes each computes a share of a batch, and they wait for one another
        return self.per_step / max(1.0, 0.8 * self.cores)

    def steps(self, seconds: float, beside: float = 0.0, compiled_before: bool = False) -> tuple[int, bool]:
        """How many steps a training has time for, and whether it saves time to compile them.

        Args:
            seconds: Time for the training.
            beside: Time that each step takes for what is not compiled, such as its share of a pool of samples, s.
            compiled_before: Whether the same has been compiled here.
        """
        per_step = self.shared_step
        left = seconds - STARTING
        compiling = COMPILED_BEFORE if compiled_before else COMPILING
        plain = left / (per_step + beside)
        compiled = (left - compiling) / (COMPILED * per_step + beside) if self.can_compile else 0.0
        return max(FEWEST_STEPS, int(max(plain, compiled))), compiled > plain

    def slower(self, factor: float) -> Pace:
        """The pace if everything takes so much longer."""
        return replace(self, per_step=factor * self.per_step)


def first_training(frames: Frames, cores: int, seed: int) -> TrainSettings:
    """The training of a first model, whose number of steps is open."""
    return TrainSettings(
        flow=architecture(3 * len(frames.topology) - 6, seed),
        batch_size=min(BATCH, max(cores, len(frames) // (8 * cores) * cores)),
        learning_rate=4e-3,
        processes=cores,
        seed=seed,
    )


def sized(settings: TrainSettings, n_frames: int, seconds: float, pace: Pace) -> TrainSettings:
    """A training that takes so long, or less where it would pass over the frames too often."""
    steps, compiled = pace.steps(seconds)
    enough = max(FEWEST_STEPS, MOST_PASSES * n_frames // settings.batch_size)
    if steps > enough:
        # fewer steps may not be worth compiling for
        steps = enough
        compiled = pace.can_compile and (1 - COMPILED) * steps * pace.shared_step > COMPILING
    return settings.model_copy(
        update={"steps": steps, "compile": compiled, "validate_every": max(1, math.ceil(steps / 8))}
    )


def seconds_per_step(frames: Frames, settings: TrainSettings) -> float:
    """Time of one eager training step on one core."""
    potential = initial_potential(frames, settings).to(settings.torch_dtype)
    rows = torch.arange(settings.batch_size) % len(frames)
    positions = torch.from_numpy(frames.positions)[rows].to(settings.torch_dtype)
    forces = torch.zeros_like(positions)
    threads, took = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            began = time.perf_counter()
            nll, predicted = likelihood_and_forces(potential, positions)
            (nll.mean() + 1e-6 * damped(force_error(predicted, forces), settings.force_damping).mean()).backward()  # type: ignore[no-untyped-call]
            took.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(took)


def round_training(
    first: TrainSettings,
    seconds: float,
    pace: Pace,
    per_sample: float,
    model: str,
    outside: str | None,
    seed: int,
    number: int = 1,
    compiled_before: bool = False,
) -> TrainSettings:
    """A round of refining for a given time.

    Args:
        first: The training of the first model.
        seconds: Time for it.
        pace: How fast models are trained.
        per_sample: Time to draw and weight a sample on all cores, s.
        model: The model to begin with.
        outside: File of hot frames.
        seed: Seed of its random numbers.
        number: Which round at its temperature it is; the later, the smaller are its steps.
        compiled_before: Whether a round before was compiled.
    """
    share = RefiningSettings(
        pool_size=1, frames_share=0.1, outside_share=0.05, outside_frames=outside, outside_damping=1000.0
    )
    n_samples = first.batch_size * (1 - share.frames_share - share.outside_share)
    quick = pace.shared_step * (COMPILED if pace.can_compile else 1.0)
    uses = min(MOST_USES, max(1, math.ceil(n_samples * per_sample / (DRAWING_SHARE * quick))))
    steps, compiled = pace.steps(seconds, n_samples * per_sample / uses, compiled_before)
    refresh = math.ceil(steps / N_REFRESHES)
    pool = min(LARGEST_POOL, max(first.batch_size, math.ceil(refresh * n_samples / uses)))
    return first.model_copy(
        update={
            "initial_model": model,
            "steps": steps,
            "compile": compiled,
            "learning_rate": 2e-3 / number,
            "warm_up": min(WARM_UP, steps // 5),
            "validate_every": max(1, math.ceil(steps / 8)),
            "refining": share.model_copy(update={"pool_size": pool, "refresh_every": refresh}),
            "seed": seed,
        }
    )


def described(settings: TrainSettings) -> str:
    """A training in words."""
    share = settings.refining
    text = f"{settings.steps} steps of {settings.batch_size} configurations"
    if settings.processes > 1:
        text += f" on {settings.processes} cores"
    text += ", compiled" if settings.compile else ""
    if share.pool_size > 0:
        n_samples = settings.batch_size * (1 - share.frames_share - share.outside_share)
        uses = share.refresh_every * n_samples / share.pool_size
        text += (
            f"; a new pool of {share.pool_size} samples every {share.refresh_every} steps, so that each is trained on "
            f"{uses:.1f} times; {100 * share.frames_share:.0f} % frames and {100 * share.outside_share:.0f} % "
            "configurations outside the bulk in each batch"
        )
    return text


def plain_settings(settings: TrainSettings) -> dict[str, Any]:
    """Settings in JSON types, for the record; `TrainSettings.model_validate` reads them back."""
    return settings.model_dump(mode="json")
