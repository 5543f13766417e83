"""The settings of a training run, and their YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from ..core.architecture import FlowSettings
from ..core.errors import MissingDependencyError, SmoothflowError
from ..runs.settings_file import read_yaml, unknown_field, write_yaml

try:
    from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WrapValidator, model_validator
except ImportError as error:
    raise MissingDependencyError("Training", error.name or "pydantic", "train") from error


def _flow_settings(value: Any, make: Callable[[Any], Any]) -> Any:
    """Settings of the flow from a mapping; a dataclass would accept unknown fields silently."""
    if isinstance(value, Mapping):
        known = [f.name for f in fields(FlowSettings)]
        for name in value:
            if name not in known:
                raise ValueError(unknown_field(str(name), known))
    try:
        return make(value)
    except SmoothflowError as error:
        raise ValueError(str(error)) from error


FlowField = Annotated[FlowSettings, WrapValidator(_flow_settings), PlainSerializer(asdict)]
"""Settings of a flow as a field of other settings."""


class LossWeights(BaseModel):
    """How much each term of the loss counts.

    Attributes:
        nll: Weight of the negative log-likelihood, kT.
        force: Weight of the damped force error, per (kT/nm)^2.
        reverse_kl: Weight of the reverse KL divergence, kT; needs a target potential.
        alpha_two: Weight of the alpha-2 divergence, which is -log of the sampling efficiency; needs a target potential.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nll: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    force: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    reverse_kl: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    alpha_two: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_all_zero(self) -> LossWeights:
        if self.nll == self.force == 0 and not self.needs_target:
            raise ValueError("at least one weight must be positive")
        return self

    @property
    def needs_target(self) -> bool:
        """Whether samples of the flow are trained on, which takes a force field."""
        return self.reverse_kl > 0 or self.alpha_two > 0


class AnnealingSettings(BaseModel):
    """Annealed importance sampling for the alpha-2 divergence.

    Attributes:
        n_intermediate: Intermediate distributions from the flow to its largest weights; 0: samples are only weighted.
        n_leapfrog: Leapfrog steps of the Hamiltonian Monte Carlo transition at each of them.
        timestep: Time step of these steps, ps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_intermediate: int = Field(default=0, ge=0)
    n_leapfrog: int = Field(default=5, ge=1)
    timestep: float = Field(default=0.001, gt=0, allow_inf_nan=False)


class RefiningSettings(BaseModel):
    """Refining on the model's own samples, weighted to the reference, which needs a target potential.

    Attributes:
        pool_size: Samples of the averaged weights in a pool, drawn and weighted together; 0: no refining.
        refresh_every: Steps between pools.
        frames_share: Share of the frames in each batch; a basin that the model has lost comes back through them.
        outside_share: Share of configurations outside the bulk in each batch: torsions turned at random, bonds and
            angles stretched, atoms in contact. They are trained on forces alone, and keep the model free of holes.
        outside_frames: File of frames with forces, such as those of hot walkers, that make up half of that share.
        outside_damping: The same as force_damping for these configurations, (kT/nm)^2.
        largest_weight: Importance weights (of mean 1) are clipped to this value, in training only.
        fewest_effective: A pool worth fewer effective samples, by raw weights, is not used: training goes on with
            frames alone until the next pool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool_size: int = Field(default=0, ge=0)
    refresh_every: int = Field(default=500, ge=1)
    frames_share: float = Field(default=0.1, gt=0, lt=1)
    outside_share: float = Field(default=0.0, ge=0, lt=1)
    outside_frames: str | None = None
    outside_damping: float = Field(default=1e3, gt=0, allow_inf_nan=False)
    largest_weight: float = Field(default=20.0, ge=1, allow_inf_nan=False)
    fewest_effective: float = Field(default=100.0, ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _samples_have_a_share(self) -> RefiningSettings:
        if self.frames_share + self.outside_share >= 1:
            raise ValueError("frames_share and outside_share must leave a share of each batch to the samples")
        if self.outside_frames is not None and self.outside_share == 0:
            raise ValueError("outside_frames needs outside_share to be positive")
        return self


class TrainSettings(BaseModel):
    """How a flow is trained.

    Attributes:
        initial_model: File or name of the model to begin with, whose architecture is taken; without it, random weights.
        zmatrix: Rows of a custom z-matrix: atom, bond, angle and torsion reference, -1 where there is none.
        flow: The architecture.
        weights: How much each term of the loss counts.
        steps: Optimization steps.
        likelihood_steps: Initial steps on the likelihood alone: they are cheap, and forces mean little at first.
        batch_size: Frames per step.
        learning_rate: Step size of Adam at the start; it falls to zero on a cosine.
        warm_up: Steps over which the learning rate rises to that cosine, which spares an initial model: Adam's first
            steps all have the same size.
        averaging: Decay per step of the exponential moving average of the weights, which is validated and saved.
        force_damping: Force error of a frame beyond which it counts logarithmically, (kT/nm)^2.
        n_samples: Samples of the flow, drawn at each step for each divergence that is estimated on them.
        energy_threshold: Height above the mean energy of the frames beyond which energies of samples count
            logarithmically, kT.
        path_gradient: Whether the reverse KL divergence is differentiated along the samples' paths alone: an unbiased
            gradient that is less noisy close to the target.
        annealing: How samples are moved before the alpha-2 divergence is estimated on them.
        refining: Training on weighted samples of the model itself, in place of most of the frames.
        validation_fraction: Share of the frames, in contiguous blocks, that is held out.
        validate_every: Steps between validations; checkpoints are written there too.
        compile: Whether to compile the loss with its gradient: it takes minutes at the start and more than halves the
            time of a step, so that it pays off after about a thousand steps. Steps on the likelihood alone are not
            compiled. With ``cuda``, the whole step is captured as a CUDA graph instead, in seconds.
        dtype: Precision of the weights in training.
        device: ``cpu``, ``cuda``, ``cuda:1``...
        tf32: Whether a GPU multiplies float32 matrices with 10 bits of mantissa: faster, but forces lose digits.
        processes: Processes that share each batch, by Lightning's DDP; with ``cuda``, each has a device of its own.
        seed: Seed of the order of frames, the held-out blocks and the samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    initial_model: str | None = None
    zmatrix: tuple[tuple[int, int, int, int], ...] | None = None
    flow: FlowField = FlowSettings()
    weights: LossWeights = LossWeights()
    steps: int = Field(default=5000, ge=1)
    likelihood_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1.5e-3, gt=0, allow_inf_nan=False)
    warm_up: int = Field(default=0, ge=0)
    averaging: float = Field(default=0.998, ge=0, lt=1)
    force_damping: float = Field(default=2e4, gt=0, allow_inf_nan=False)
    n_samples: int = Field(default=64, ge=2)
    energy_threshold: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    path_gradient: bool = False
    annealing: AnnealingSettings = AnnealingSettings()
    refining: RefiningSettings = RefiningSettings()
    validation_fraction: float = Field(default=0.1, gt=0, le=0.5)
    validate_every: int = Field(default=250, ge=1)
    compile: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    tf32: bool = False
    processes: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _likelihood_is_trained(self) -> TrainSettings:
        if self.likelihood_steps > 0 and self.weights.nll == 0:
            raise ValueError("likelihood_steps needs weights.nll to be positive")
        if self.compile and self.weights.nll == self.weights.force == 0:
            raise ValueError("compile needs weights.nll or weights.force to be positive: samples are not compiled")
        if self.tf32 and (self.device == "cpu" or self.dtype != "float32"):
            raise ValueError("tf32 is a precision of float32 on a GPU: set device to cuda and dtype to float32")
        if self.refining.pool_size > 0:
            if self.weights.nll == self.weights.force == 0:
                raise ValueError("refining needs weights.nll or weights.force to be positive")
            if self.refining.outside_share > 0 and self.weights.force == 0:
                raise ValueError("refining.outside_share needs weights.force to be positive")
        return self

    @property
    def needs_target(self) -> bool:
        """Whether samples of the flow are trained on, which takes a force field."""
        return self.weights.needs_target or self.refining.pool_size > 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.float32 if self.dtype == "float32" else torch.float64


def read_settings(path: str | Path) -> TrainSettings:
    """The settings in a YAML file; fields that it leaves out have their defaults.

    Raises:
        FileFormatError: If the file is missing, too large, or not YAML.
        ConfigurationError: If a field is unknown, of the wrong type or out of range; names file, line and field.
    """
    return read_yaml(path, TrainSettings)


def write_settings(settings: TrainSettings) -> str:
    """The settings as YAML, every field written out; `read_settings` reads it back."""
    return write_yaml(settings)
