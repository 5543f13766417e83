"""The settings of a training run, and their YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from ..core.architecture import FlowSettings
from ..core.errors import ConfigurationError, FileFormatError, MissingDependencyError, SmoothflowError

try:
    import yaml
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        PlainSerializer,
        ValidationError,
        model_validator,
    )
except ImportError as error:
    raise MissingDependencyError("Training", error.name or "pydantic", "train") from error

MAX_BYTES = 2**20


def _flow_settings(value: Any) -> Any:
    """Settings of the flow from a mapping; a dataclass would take unknown fields in silence."""
    if not isinstance(value, Mapping):
        return value
    known = [f.name for f in fields(FlowSettings)]
    for name in value:
        if name not in known:
            raise ConfigurationError(_unknown(str(name), known))
    return value


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(known))}"
    return f'there is no field "{name}"; {hint}'


class LossWeights(BaseModel):
    """How much each term of the loss counts.

    Attributes:
        nll: Weight of the negative log-likelihood, kT.
        force: Weight of the damped force error, per (kT/nm)^2.
        reverse_kl: Weight of the reverse KL divergence, kT; needs a target potential.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nll: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    force: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    reverse_kl: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_all_zero(self) -> LossWeights:
        if self.nll == self.force == self.reverse_kl == 0:
            raise ValueError("at least one weight must be positive")
        return self


class TrainSettings(BaseModel):
    """How a flow is trained.

    Attributes:
        zmatrix: Rows of a z-matrix of one's own: atom, bond, angle and torsion reference, -1 where there is none.
        flow: The architecture.
        weights: How much each term of the loss counts.
        steps: Optimization steps.
        likelihood_steps: How many of them come first, on the likelihood alone: cheap, and forces mean little before.
        batch_size: Frames per step.
        learning_rate: Step size of Adam at the start; it falls to zero on a cosine.
        averaging: Decay per step of the exponential average of the weights, which is what is validated and saved.
        force_damping: Force errors of a frame beyond this count logarithmically, (kT/nm)^2.
        kl_batch_size: Samples per step for the reverse KL divergence.
        kl_threshold: Reference energies so far above the frames' mean count logarithmically in it, kT.
        validation_fraction: Share of the frames, in contiguous blocks, that is held out.
        validate_every: Steps between validations; checkpoints are written there too.
        compile: Whether to compile the loss with its gradient: minutes at the start, then steps take less than half the
            time, so that it pays from some thousand steps on. Steps on the likelihood alone are not compiled.
        dtype: Precision of the weights in training.
        device: ``cpu``, ``cuda``, ``cuda:1``...
        seed: Seed of the order of frames, the held-out blocks and the samples for the reverse KL divergence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    zmatrix: tuple[tuple[int, int, int, int], ...] | None = None
    flow: Annotated[FlowSettings, BeforeValidator(_flow_settings), PlainSerializer(asdict)] = FlowSettings()
    weights: LossWeights = LossWeights()
    steps: int = Field(default=5000, ge=1)
    likelihood_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1.5e-3, gt=0, allow_inf_nan=False)
    averaging: float = Field(default=0.998, ge=0, lt=1)
    force_damping: float = Field(default=2e4, gt=0, allow_inf_nan=False)
    kl_batch_size: int = Field(default=64, ge=1)
    kl_threshold: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    validation_fraction: float = Field(default=0.1, gt=0, le=0.5)
    validate_every: int = Field(default=250, ge=1)
    compile: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _likelihood_is_trained(self) -> TrainSettings:
        if self.likelihood_steps > 0 and self.weights.nll == 0:
            raise ValueError("likelihood_steps needs weights.nll to be positive")
        if self.compile and self.weights.nll == self.weights.force == 0:
            raise ValueError("compile needs weights.nll or weights.force to be positive: samples are not compiled")
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.float32 if self.dtype == "float32" else torch.float64


def read_settings(path: str | Path) -> TrainSettings:
    """The settings in a YAML file; fields that it leaves out have their defaults.

    Raises:
        FileFormatError: If the file is missing, too large, or no YAML.
        ConfigurationError: If a field is unknown, of the wrong type or out of range; names file, line and field.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError(f'"{path}" is larger than {MAX_BYTES} bytes, so it is no configuration.')
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileFormatError(f'There is no file "{path}". Give the path of a YAML configuration.') from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f'"{path}" cannot be read as text: {error}.') from error
    lines: dict[tuple[str, ...], int] = {}
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigurationError(f'"{path}", line {line}: anchors and aliases are not used here; write it out.')
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _collect_lines(root, (), lines, path)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise FileFormatError(f'"{path}"{place}: this is no YAML: {reason}.') from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigurationError(f'"{path}", line 1: settings are written as "name: value", one per line.')
    try:
        return TrainSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f'"{path}"{_place(first["loc"], lines)}: {_ended(_reason(first))}') from error
    except SmoothflowError as error:
        # only the flow's settings check themselves
        named = [p for p in lines if len(p) > 1 and p[0] == "flow" and f'"{p[-1]}"' in str(error)]
        location = max(named, key=len) if named else ("flow",)
        raise ConfigurationError(f'"{path}"{_place(location, lines)}: {_ended(str(error))}') from error


def write_settings(settings: TrainSettings) -> str:
    """The settings as YAML, every field written out; `read_settings` reads it back."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    return text


def _collect_lines(node: Any, path: tuple[str, ...], lines: dict[tuple[str, ...], int], file: Path) -> None:
    """The line of every field, and an error for a field that is there twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        place = (*path, str(key.value))
        line = key.start_mark.line + 1
        if place in lines:
            raise ConfigurationError(
                f'"{file}", line {line}: "{".".join(place)}" is set in line {lines[place]} already.'
            )
        lines[place] = line
        _collect_lines(value, place, lines, file)


def _place(location: tuple[int | str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    path = tuple(str(part) for part in location)
    shown = ".".join(path)
    while path and path not in lines:
        path = path[:-1]
    return (f", line {lines[path]}" if path else "") + (f", {shown}" if shown else "")


def _ended(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        owner = LossWeights if len(error["loc"]) > 1 and error["loc"][0] == "weights" else TrainSettings
        return _unknown(str(error["loc"][-1]), list(owner.model_fields))
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, but it is {error['input']!r}"
