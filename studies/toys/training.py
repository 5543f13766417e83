"""Training a flow on a toy target, from exact samples of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.architecture import FlowSettings, build_flow
from ...core.charts import CutOpen
from ...core.display import count_parameters
from ...core.errors import ConfigurationError, ManifoldError, MissingDependencyError, TrainingError
from ...core.flow import Flow
from ...core.manifolds import Interval, Line, Product
from ...core.plugins import registry
from ...potentials.toys import Toy
from ...runs.progress import OnProgress, Progress, silent
from ...runs.randomness import generator
from ...training.losses import force_error, likelihood_and_forces, negative_log_likelihood
from ...training.optimizer import adam_with_cosine
from ...training.quiet import interruptible, quiet_lightning

try:
    from lightning.pytorch import LightningModule, Trainer
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error

STEPS_PER_DRAW = 50
"""Number of training steps for which samples are drawn at once."""

PROGRESS_EVERY = 10
WIDEST = 4096

NARROW: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "smooth": {"n_components": 16, "scale_bounds": (1.0, 20.0)},
        "spline": {"n_bins": 16},
        "bspline": {"n_bins": 16},
        "moebius-mixture": {"n_components": 16},
        "bernstein": {"degree": 16},
    }
)

TOY_OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"rings": NARROW, "rings-kinked": NARROW, "rings-periodic": NARROW}
)
"""Constructor arguments of transforms for targets with details much finer than the period: 16 components each, and
bumps as narrow as the rings. The defaults of the smooth transform are those of molecules, whose forces must stay soft.
"""


@dataclass(frozen=True)
class ToySettings:
    """The budget of every transform on a toy target.

    Attributes:
        steps: Training steps.
        batch_size: Exact samples per step; none is seen twice.
        learning_rate: Learning rate of Adam at the start; it falls to 0 like half a cosine.
        force_weight: Weight of the mean squared force error, per (kT per unit of the coordinates)^2; 0: likelihood
            alone.
        n_parameters: Largest number of parameters of each flow; the width of its conditioners' hidden layers follows.
        pairs: Pairs of couplings.
        options: Constructor arguments by the name of the transform, in place of those in `TOY_OPTIONS`.
        n_evaluation: Held-out samples, and samples drawn from each flow.
        seed: Seed of initial weights and samples.
    """

    steps: int = 3000
    batch_size: int = 512
    learning_rate: float = 3e-3
    force_weight: float = 0.0
    n_parameters: int = 60_000
    pairs: int = 3
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_evaluation: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_parameters", "pairs"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; it is {getattr(self, name)}.")
        if self.n_evaluation < 2:
            raise ConfigurationError(f"n_evaluation must be at least 2; it is {self.n_evaluation}.")
        if not self.learning_rate > 0:
            raise ConfigurationError(f"learning_rate must be positive; it is {self.learning_rate}.")
        if not self.force_weight >= 0:
            raise ConfigurationError(f"force_weight must not be negative; it is {self.force_weight}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings in plain types."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def toy_flow(domain: Product, transform: str, settings: ToySettings) -> Flow:
    """The untrained flow of one transform, as wide as the budget of parameters allows, in float64.

    Where the transform does not map the target's circles or intervals, they are cut open to what it maps.

    Raises:
        UnknownNameError: If no plug-in offers the transform.
        ManifoldError: If it maps nothing that the target's coordinates can be carried to.
        ConfigurationError: If even the narrowest flow exceeds the budget.
    """

    def flow(hidden: int) -> Flow:
        architecture = FlowSettings(
            transforms={kind: transform},
            options={transform: settings.options[transform]} if transform in settings.options else {},
            line_pairs=0,
            interval_pairs=settings.pairs,
            circle_pairs=settings.pairs,
            hidden=hidden,
            seed=settings.seed,
        )
        return build_flow(architecture, start)

    start, kind = _start(domain, transform)
    narrow, wide = 1, WIDEST
    if count_parameters(flow(narrow)) > settings.n_parameters:
        raise ConfigurationError(
            f'A flow of transform "{transform}" has at least {count_parameters(flow(narrow))} parameters; '
            f"n_parameters is {settings.n_parameters}. Raise it, or take fewer pairs."
        )
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        if count_parameters(flow(middle)) > settings.n_parameters:
            wide = middle
        else:
            narrow = middle
    # in float32 the last sample before the end of an interval would round onto it
    return flow(narrow).double()


def _start(domain: Product, transform: str) -> tuple[Product | CutOpen, str]:
    """The domain on which the flow begins, and the kind of manifold on which its couplings act."""
    able = registry().transform(transform).manifolds
    manifold = domain.columns[0].manifold
    if type(manifold) in able:
        return domain, manifold.name
    onto: Interval | Line
    for onto in (Interval(), Line()):
        if type(onto) in able:
            return CutOpen(domain, onto), onto.name
    raise ManifoldError(
        f'Transform "{transform}" maps neither the {manifold.name} of this target nor the line, to which it could be '
        "cut open; choose another transform or target."
    )


@dataclass(frozen=True)
class ExactSamples:
    """The batches of a training: fresh samples of the target in every step, the same ones for every flow."""

    target: Toy
    settings: ToySettings

    def __iter__(self) -> Iterator[Float[Tensor, "size dim"]]:
        for start in range(0, self.settings.steps, STEPS_PER_DRAW):
            n_steps = min(STEPS_PER_DRAW, self.settings.steps - start)
            source = generator(self.settings.seed, 0, start)
            samples, _ = self.target.sample(n_steps * self.settings.batch_size, source)
            yield from torch.split(samples, self.settings.batch_size)


class ToyTraining(LightningModule):  # type: ignore[misc]
    r"""Trains a flow on samples of a target of known density.

    .. math:: \langle -\log p \rangle + w \langle |F - F_{\mathrm{target}}|^2 \rangle / d

    Args:
        flow: The flow with its initial weights.
        target: The target, for its forces.
        settings: The budget.
        on_progress: Told of steps and losses.
    """

    def __init__(self, flow: Flow, target: Toy, settings: ToySettings, on_progress: OnProgress = silent) -> None:
        super().__init__()
        self.flow = flow
        self.settings = settings
        self.on_progress = on_progress
        # outside the module tree: the target is not trained
        self._target = [target]

    def configure_optimizers(self) -> dict[str, Any]:
        return adam_with_cosine(self.flow.parameters(), self.settings.learning_rate, self.settings.steps)

    def training_step(self, batch: Float[Tensor, "size dim"], _: int) -> Float[Tensor, ""]:
        step, n_steps = int(self.global_step), self.settings.steps
        if self.settings.force_weight > 0:
            nll, forces = likelihood_and_forces(self.flow, batch)
            reference = self._target[0].energy_and_forces(batch)[1]
            force_mse = force_error(forces.unsqueeze(-2), reference.unsqueeze(-2)).mean()
            terms = {"nll": nll.mean(), "force_mse": force_mse}
            loss = terms["nll"] + self.settings.force_weight * force_mse
        else:
            loss = negative_log_likelihood(self.flow, batch).mean()
            terms = {"nll": loss}
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"At step {step} the loss is {float(loss.detach())}. Lower learning_rate or force_weight."
            )
        if (step + 1) % PROGRESS_EVERY == 0 or step + 1 == n_steps:
            shown = {name: float(term.detach()) for name, term in terms.items()}
            self.on_progress(Progress("Training", step + 1, n_steps, shown))
        return loss


def train_on_toy(flow: Flow, target: Toy, settings: ToySettings, on_progress: OnProgress = silent) -> None:
    """Train a flow in place.

    Raises:
        TrainingError: If the loss is not finite.
    """
    module = ToyTraining(flow, target, settings, on_progress)
    with TemporaryDirectory() as nothing, quiet_lightning(), interruptible():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=settings.steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=nothing,
        )
        trainer.fit(module, ExactSamples(target, settings))
