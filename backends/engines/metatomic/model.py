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


class EnergyModel(nn.Module):
    """What metatomic compiles: the traced energies of each system, after checks of its atoms."""

    numbers: Tensor

    def __init__(self, energies: nn.Module, numbers: Tensor) -> None:
        super().__init__()
        self.energies = energies
        self.register_buffer("numbers", numbers)

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        """The energy (kJ/mol) of each system (nm), the members' and their standard deviation, as they are asked for."""
        results: Dict[str, TensorMap] = {}
        for output in outputs.values():
            if output.sample_kind != "system" or selected_atoms is not None:
                raise ValueError("This model has one energy for the whole molecule, not for single atoms.")
        if len(outputs) == 0:
            return results
        energies: List[Tensor] = []
        no_components: List[Labels] = []
        for system in systems:
            if bool(system.pbc.any()):
                raise ValueError("Periodic boundaries are on, but this model is that of a molecule in free space.")
            if system.types.shape != self.numbers.shape or not torch.equal(
                system.types.to(self.numbers.dtype), self.numbers
            ):
                raise ValueError("Number, elements or order of the atoms are not those of this model's molecule.")
            energies.append(self.energies(system.positions.unsqueeze(0)).reshape(1, -1))
        members = torch.cat(energies)
        numbered = torch.arange(len(systems), dtype=torch.int32, device=self.numbers.device).reshape(-1, 1)
        zero = torch.zeros(1, 1, dtype=torch.int32, device=self.numbers.device)
        for name in outputs:
            values = members
            if name == "energy":
                values = members.mean(1, keepdim=True)
            elif name == "energy_uncertainty":
                values = members.std(1, keepdim=True)
            properties = torch.arange(values.shape[1], dtype=torch.int32, device=self.numbers.device).reshape(-1, 1)
            block = TensorBlock(
                values=values,
                samples=Labels(["system"], numbered),
                components=no_components,
                properties=Labels(["energy"], properties),
            )
            results[name] = TensorMap(Labels(["_"], zero), [block])
        return results


OUTPUTS: tuple[str, ...] = ("energy", "energy_uncertainty", "energy_ensemble")
"""What a model has, by metatomic's names: of a committee all, of any other potential the first."""


def export(potential: Potential, path: Path, positions: Float[Tensor, "batch atoms 3"]) -> None:
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
    with warnings.catch_warnings():
        # branches on the positions; the comparison below finds those that matter
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            traced = torch.jit.trace(energies, positions[:1], check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ConfigurationError(f"torch cannot trace the energy of {type(potential).__name__}: {error}") from error
    capabilities = ModelCapabilities(
        outputs={name: ModelOutput(unit="kJ/mol", sample_kind="system") for name in names},
        atomic_types=sorted(set(numbers.tolist())),
        interaction_range=float("inf"),
        length_unit="nm",
        supported_devices=["cpu"],
        dtype=str(dtype).removeprefix("torch."),
    )
    metadata = ModelMetadata(name="smoothflow", description=f"{type(potential).__name__} of one molecule")
    model = AtomisticModel(EnergyModel(traced.cpu().eval(), numbers).eval(), metadata, capabilities)
    _require_same(model, numbers, potential, positions)
    with tempfile.TemporaryDirectory() as folder:
        model.save(str(Path(folder) / "model.pt"))
        write_atomically(path, (Path(folder) / "model.pt").read_bytes())


def _require_same(
    model: AtomisticModel, numbers: Tensor, potential: Potential, positions: Float[Tensor, "batch atoms 3"]
) -> None:
    """Raise a `ConfigurationError` unless the model has the potential's energies and forces."""
    options = ModelEvaluationOptions(length_unit="nm", outputs={"energy": ModelOutput(unit="kJ/mol")})
    tolerance = 1e-8 if positions.dtype == torch.float64 else 1e-3
    for i, configuration in enumerate(positions):
        expected, forces = (value[0].cpu() for value in potential.energy_and_forces(configuration[None]))
        x = configuration.clone().cpu().requires_grad_(True)
        system = System(numbers, x, torch.zeros(3, 3, dtype=x.dtype), torch.zeros(3, dtype=torch.bool))
        energy = model([system], options, check_consistency=True)["energy"].block().values.sum()
        (gradient,) = torch.autograd.grad(energy, x, materialize_grads=True)
        difference = float((gradient + forces).abs().max() / forces.abs().max().clamp(min=1.0))
        error = float((energy.detach() - expected).abs() / expected.abs().clamp(min=1.0))
        if not (difference <= tolerance and error <= tolerance):
            raise ConfigurationError(
                f"The exported energy is another than the potential's: at configuration {i} it differs by {error:.2g} "
                f"(relative), and its forces by {difference:.2g} of the largest. A trace cannot hold this potential."
            )
