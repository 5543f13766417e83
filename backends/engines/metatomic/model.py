"""A potential's energy in TorchScript, as metatomic has it; imported only where metatomic is.

metatomic asks for types of ``typing`` themselves: not list and dict, and not annotations that wait.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Dict, List, Optional

import torch
from jaxtyping import Float
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelEvaluationOptions,
    ModelMetadata,
    ModelOutput,
    System,
)
from torch import Tensor, nn

from ....core.committee import CommitteePotential
from ....core.errors import ConfigurationError
from ....core.files import write_atomically
from ....core.potential import Potential, unchecked
from ....molecules.elements import atomic_numbers


class MemberEnergies(nn.Module):
    """The energies of a committee's members as what is called."""

    def __init__(self, committee: CommitteePotential) -> None:
        super().__init__()
        self.committee = committee

    def forward(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch members"]:
        energies: Tensor = unchecked(self.committee, "energies")(positions)
        return energies


class NoFeatures(nn.Module):
    """In place of features: TorchScript knows no module that may be missing."""

    def forward(self, positions: Tensor) -> Tensor:
        return positions.new_zeros(positions.shape[0], 0)


class EnergyModel(nn.Module):
    """What metatomic compiles: the traced energies and features of each system, after checks of its atoms."""

    numbers: Tensor

    def __init__(self, energies: nn.Module, numbers: Tensor, features: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.energies = energies
        self.features = NoFeatures() if features is None else features
        self.register_buffer("numbers", numbers)

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        """The energy (kJ/mol) of each system (nm), the members' and their standard deviation, and the features, as they
        are asked for."""
        results: Dict[str, TensorMap] = {}
        for output in outputs.values():
            if output.sample_kind != "system" or selected_atoms is not None:
                raise ValueError("This model's outputs are those of the whole molecule, not for single atoms.")
        if len(outputs) == 0:
            return results
        energies: List[Tensor] = []
        features: List[Tensor] = []
        with_energies = len(outputs) > 1 or "feature" not in outputs
        no_components: List[Labels] = []
        for system in systems:
            if bool(system.pbc.any()):
                raise ValueError("Periodic boundaries are on, but this model is that of a molecule in free space.")
            if system.types.shape != self.numbers.shape or not torch.equal(
                system.types.to(self.numbers.dtype), self.numbers
            ):
                raise ValueError("Number, elements or order of the atoms are not those of this model's molecule.")
            if with_energies:
                energies.append(self.energies(system.positions.unsqueeze(0)).reshape(1, -1))
            if "feature" in outputs:
                features.append(self.features(system.positions.unsqueeze(0)))
        members = torch.cat(energies if with_energies else features)
        numbered = torch.arange(len(systems), dtype=torch.int32, device=self.numbers.device).reshape(-1, 1)
        zero = torch.zeros(1, 1, dtype=torch.int32, device=self.numbers.device)
        for name in outputs:
            values = members
            label = "energy"
            if name == "feature":
                values = torch.cat(features)
                label = "feature"
            elif name == "energy":
                values = members.mean(1, keepdim=True)
            elif name == "energy_uncertainty":
                values = members.std(1, keepdim=True)
            properties = torch.arange(values.shape[1], dtype=torch.int32, device=self.numbers.device).reshape(-1, 1)
            block = TensorBlock(
                values=values,
                samples=Labels(["system"], numbered),
                components=no_components,
                properties=Labels([label], properties),
            )
            results[name] = TensorMap(Labels(["_"], zero), [block])
        return results


FEATURE = "feature"
"""metatomic's name of features; TorchScript takes no such constants, so that `EnergyModel` has the word itself."""

OUTPUTS: tuple[str, ...] = ("energy", "energy_uncertainty", "energy_ensemble")
"""What a model has, by metatomic's names: of a committee all, of any other potential the first."""


def export(
    potential: Potential, path: Path, positions: Float[Tensor, "batch atoms 3"], features: Optional[nn.Module]
) -> None:
    """Trace, compare and write; `to_metatomic` says what and why."""
    assert potential.topology is not None
    dtype = potential.dtype
    positions = positions.detach().to(potential.device, dtype)
    for configuration in positions.to("cpu", torch.float64).numpy():
        potential.require_configuration(configuration)
    numbers = torch.tensor(atomic_numbers(potential.topology))
    energies: nn.Module = potential
    names = OUTPUTS[:1]
    if isinstance(potential, CommitteePotential):
        energies, names = MemberEnergies(potential), OUTPUTS
    traced = _trace(energies, positions, f"the energy of {type(potential).__name__}")
    outputs = {name: ModelOutput(unit="kJ/mol", sample_kind="system") for name in names}
    traced_features = None
    if features is not None:
        traced_features = _trace(features, positions, "the features")
        outputs[FEATURE] = ModelOutput(unit="", sample_kind="system")
    capabilities = ModelCapabilities(
        outputs=outputs,
        atomic_types=sorted(set(numbers.tolist())),
        interaction_range=float("inf"),
        length_unit="nm",
        supported_devices=["cpu"],
        dtype=str(dtype).removeprefix("torch."),
    )
    metadata = ModelMetadata(name="smoothflow", description=f"{type(potential).__name__} of one molecule")
    model = AtomisticModel(EnergyModel(traced, numbers, traced_features).eval(), metadata, capabilities)
    _require_same(model, numbers, potential, positions, features)
    with tempfile.TemporaryDirectory() as folder:
        model.save(str(Path(folder) / "model.pt"))
        write_atomically(path, (Path(folder) / "model.pt").read_bytes())


def _trace(module: nn.Module, positions: Float[Tensor, "batch atoms 3"], what: str) -> nn.Module:
    with warnings.catch_warnings():
        # branches on the positions; the comparison that follows finds those that matter
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            traced: nn.Module = torch.jit.trace(module, positions[:1], check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ConfigurationError(f"torch cannot trace {what}: {error}") from error
    return traced.cpu().eval()


def _require_same(
    model: AtomisticModel,
    numbers: Tensor,
    potential: Potential,
    positions: Float[Tensor, "batch atoms 3"],
    features: Optional[nn.Module],
) -> None:
    """Raise a `ConfigurationError` unless the model has the potential's energies, forces and features."""
    wanted = {"energy": ModelOutput(unit="kJ/mol")}
    if features is not None:
        wanted[FEATURE] = ModelOutput(unit="")
    options = ModelEvaluationOptions(length_unit="nm", outputs=wanted)
    tolerance = 1e-8 if positions.dtype == torch.float64 else 1e-3
    for i, configuration in enumerate(positions):
        expected, forces = (value[0].cpu() for value in potential.energy_and_forces(configuration[None]))
        x = configuration.clone().cpu().requires_grad_(True)
        system = System(numbers, x, torch.zeros(3, 3, dtype=x.dtype), torch.zeros(3, dtype=torch.bool))
        results = model([system], options, check_consistency=True)
        energy = results["energy"].block().values.sum()
        (gradient,) = torch.autograd.grad(energy, x, materialize_grads=True)
        difference = float((gradient + forces).abs().max() / forces.abs().max().clamp(min=1.0))
        error = float((energy.detach() - expected).abs() / expected.abs().clamp(min=1.0))
        if not (difference <= tolerance and error <= tolerance):
            raise ConfigurationError(
                f"The exported energy is another than the potential's: at configuration {i} it differs by {error:.2g} "
                f"(relative), and its forces by {difference:.2g} of the largest. A trace cannot hold this potential."
            )
        if features is not None:
            given = features(configuration[None])[0].detach().cpu()
            away = float((results[FEATURE].block().values[0].detach() - given).abs().max())
            if not away <= tolerance * max(1.0, float(given.abs().max())):
                raise ConfigurationError(
                    f"The exported features differ from those given by {away:.2g} at configuration {i}. A trace cannot "
                    "hold them."
                )
