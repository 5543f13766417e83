"""Settings of a comparison: its grid, its frames and its measurements; the YAML files that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ...core.architecture import transforms_for
from ...core.errors import MissingDependencyError, SmoothflowError, UnknownNameError
from ...molecules.shipped import AMBER
from ...runs.references import names_no_code, only_typed
from ...runs.settings_file import read_yaml
from ...training.config import FlowField, LossWeights, TrainSettings
from ..physics.settings import PhysicsSettings

try:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        ValidationError,
        ValidationInfo,
        field_validator,
        model_validator,
    )
except ImportError as error:
    raise MissingDependencyError("A comparison", error.name or "pydantic", "train") from error

PRESETS = Path(__file__).parents[2] / "examples"
"""Each comparison that ships with the package is a ``comparison.yaml`` in a folder here of the same name."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")]
"""Names of transforms and objectives, which are also names of folders."""


class FramesPlan(BaseModel):
    """How frames are made when none are given: walkers of Langevin dynamics, with replica exchange.

    Attributes:
        n_frames: Number of training frames.
        n_held_out: Number of held-out frames, from walkers of their own.
        frame_interval: Time between frames of a walker, ps.
        walkers: Independent walkers of each of the two sets.
        ladder: Higher temperatures for replica exchange, K.
        equilibration: Time before the first frame, ps.
        temperature: K.
        seed: Seed of the training frames; the held-out frames have the next one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_frames: int = Field(default=10_000, ge=1)
    n_held_out: int = Field(default=2_500, ge=1)
    frame_interval: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    walkers: int = Field(default=4, ge=1)
    ladder: tuple[float, ...] = ()
    equilibration: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    temperature: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)


class DynamicsPlan(BaseModel):
    """The NVE runs of each potential; the defaults are the protocol of the paper.

    Attributes:
        replicas: Independent runs, all from the same start for every potential.
        timestep: ps.
        duration: Duration of each run, ps.
        equilibration: Langevin dynamics before each run, ps.
        friction: Friction of the equilibration, 1/ps.
        timesteps: Time steps whose energy fluctuations are compared, ps; without any, the exponent is not measured.
        scaling_duration: Duration of the run at each of them, ps.
        seed: Seed of velocities and of the thermostat's noise.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, arXiv 2110.00351.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: int = Field(default=10, ge=1)
    timestep: float = Field(default=0.001, gt=0, allow_inf_nan=False)
    duration: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    equilibration: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    friction: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    timesteps: tuple[float, ...] = (0.00025, 0.0005, 0.001)
    scaling_duration: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _can_be_run(self) -> DynamicsPlan:
        if len(self.timesteps) == 1:
            raise ValueError("timesteps needs two or more for an exponent, or none")
        try:
            self.physics(300.0)
        except SmoothflowError as error:
            raise ValueError(str(error)) from error
        return self

    def physics(self, temperature: float) -> PhysicsSettings:
        """The same for the physics tests, whose dynamics these are."""
        return PhysicsSettings(
            temperature=temperature,
            n_replicas=self.replicas,
            timestep=self.timestep,
            equilibration=self.equilibration,
            equilibration_friction=self.friction,
            production=self.duration,
            timesteps=self.timesteps,
            scaling_duration=self.scaling_duration,
            seed=self.seed,
        )


class ComparisonSettings(BaseModel):
    """A grid of trainings, one of each transform with each objective, alike in everything else.

    Attributes:
        structure: PDB file, or the name of a molecule that ships with the package.
        reference: Its force field, as PROVIDER:ARGUMENT; a file may name none that is code.
        frames: How frames are made when none are given.
        training: The settings that all trainings share.
        transforms: For each row of the grid, the fields of the flow that differ from ``training.flow``. One without
            ``transforms`` of its own is named after the transform that it uses wherever it can.
        objectives: For each column of the grid, the weights of the loss that differ from ``training.weights``.
        n_samples: Samples drawn from each flow.
        n_gradients: Held-out frames at which force gradients are measured.
        seed: Seed of samples and of directions of force gradients.
        dynamics: The NVE runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    structure: str = "capped-alanine"
    reference: str = AMBER
    frames: FramesPlan = FramesPlan()
    training: TrainSettings = TrainSettings()
    transforms: dict[Name, FlowField] = Field(min_length=1)
    objectives: dict[Name, LossWeights] = Field(min_length=1)
    n_samples: int = Field(default=10_000, ge=2)
    n_gradients: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0)
    dynamics: DynamicsPlan = DynamicsPlan()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Each flow and each objective with the fields that it shares with the others."""
        if not isinstance(data, Mapping):
            return data
        training = data.get("training")
        if isinstance(training, TrainSettings):
            training = training.model_dump()
        shared = training if isinstance(training, Mapping) else {}
        members = {
            "transforms": _with_transforms(_completed(data.get("transforms"), shared.get("flow"))),
            "objectives": _completed(data.get("objectives"), shared.get("weights")),
        }
        # one that is missing stays so
        return {**data, **{name: found for name, found in members.items() if found is not None}}

    @field_validator("reference")
    @classmethod
    def _names_no_code(cls, reference: str, info: ValidationInfo) -> str:
        # scripts may name whatever they like
        if info.context is not None and "file" in info.context and not names_no_code(reference):
            raise ValueError(only_typed(reference, "--reference"))
        return reference

    @model_validator(mode="after")
    def _can_be_trained(self) -> ComparisonSettings:
        for name, flow in self.transforms.items():
            try:
                flow.make_transforms()
            except SmoothflowError as error:
                raise ValueError(f'"{name}": {error}') from error
        for objective in self.objectives:
            try:
                self.training_of(next(iter(self.transforms)), objective)
            except ValidationError as error:
                raise ValueError(f'"{objective}": {error.errors()[0]["msg"]!s}') from error
        return self

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Transform and objective of every cell of the grid."""
        return [(transform, objective) for transform in self.transforms for objective in self.objectives]

    def training_of(self, transform: str, objective: str) -> TrainSettings:
        """The training of one cell."""
        shared = self.training.model_dump(exclude={"flow", "weights"})
        own = {"flow": self.transforms[transform], "weights": self.objectives[objective]}
        return TrainSettings.model_validate({**shared, **own})


def _completed(members: Any, shared: Any) -> Any:
    """The shared fields, updated with each member's own."""
    if not isinstance(members, Mapping):
        return members
    common = shared if isinstance(shared, Mapping) else {}
    given = {name: {} if fields is None else fields for name, fields in members.items()}
    return {name: {**common, **own} if isinstance(own, Mapping) else own for name, own in given.items()}


def _with_transforms(flows: Any) -> Any:
    """Flows that name no transforms use the one that they are named after."""
    if not isinstance(flows, Mapping):
        return flows
    found = {}
    for name, flow in flows.items():
        found[name] = flow
        if isinstance(flow, Mapping) and "transforms" not in flow:
            try:
                found[name] = {**flow, "transforms": transforms_for(str(name))}
            except SmoothflowError as error:
                raise ValueError(str(error)) from error
    return found


def preset_names() -> list[str]:
    """The comparisons that ship with the package."""
    return sorted(path.parent.name for path in PRESETS.glob("*/comparison.yaml"))


def read_comparison(preset: str) -> ComparisonSettings:
    """A comparison that ships with the package, by its name, or another, by the path of its YAML file.

    Raises:
        UnknownNameError: If there is none of that name.
        FileFormatError: If the file is missing, too large, or not YAML.
        ConfigurationError: If a field is unknown, of the wrong type or out of range; names file, line and field.
    """
    path = Path(preset)
    if not path.suffix and len(path.parts) == 1:
        path = PRESETS / preset / "comparison.yaml"
        if not path.is_file():
            raise UnknownNameError("preset", preset, preset_names())
    return read_yaml(path, ComparisonSettings)
