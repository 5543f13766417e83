"""The independent Metropolis chain of weighted samples: frames of the target without weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..core.files import require_free
from ..molecules.frames import BLOCK, Frames, concatenate
from ..molecules.frames_file import FramesReader, write_blocks
from ..potentials.flow_potential import FlowPotential
from ..runs.randomness import generator
from .correlation import mean_of_time_series, statistical_inefficiency
from .estimates import Estimate, percent, plain
from .reweighted import observe_weights, require_torsions
from .reweighting import metropolis_chain


@dataclass(frozen=True)
class ChainReport:
    r"""Statistics of a chain.

    Attributes:
        n_steps: Frames of the chain.
        acceptance: Fraction of the steps that moved.
        autocorrelation_times: :math:`1 + 2 \sum_t \rho(t)` of the energy and of each phi and psi, in steps: the number
            of frames worth one independent frame.
    """

    n_steps: int
    acceptance: Estimate
    autocorrelation_times: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    def rows(self) -> list[list[str]]:
        """The numbers as a table."""
        times = self.autocorrelation_times.items()
        return [
            ["steps", str(self.n_steps)],
            ["acceptance", percent(self.acceptance)],
            *([f"autocorrelation time of {name}", f"{time:.2f} steps"] for name, time in times),
        ]


def write_chain(potential: FlowPotential, samples: Path, output: Path, seed: int = 0) -> ChainReport:
    r"""Write the Metropolis chain whose proposals are the samples of a file, in order.

    It begins at the first sample with a weight, and has a frame for each sample from there. Its energies are those of
    the force field.

    Args:
        potential: The flow that the samples are of.
        samples: File of samples with log-weights.
        output: Frames file, written whole or not at all.
        seed: Seed of the decisions.

    Raises:
        ConfigurationError: If the output exists, or no sample has a weight.
        FileFormatError: If a file cannot be read or written.

    Reference: Tierney, Markov Chains for Exploring Posterior Distributions, Annals of Statistics 22, 1701 (1994).
    """
    require_free(output)
    draws = observe_weights(potential, samples, require_torsions(potential, ()))
    possible = draws.log_weights > -math.inf
    start = int(possible.double().argmax())
    chain = start + metropolis_chain(draws.log_weights[start:], generator(seed, 1))
    with FramesReader(samples) as reader:
        write_blocks(output, _visited(reader, chain.numpy(), draws.energy.numpy(), seed))
    series = {"energy": draws.energy[chain].numpy().astype(complex)}
    series |= {name: np.exp(1j * angle[chain].numpy()) for name, angle in draws.torsions.items()}
    return ChainReport(
        n_steps=len(chain),
        acceptance=mean_of_time_series((chain[1:] != chain[:-1]).double()),
        autocorrelation_times={name: statistical_inefficiency(values) for name, values in series.items()},
    )


def _visited(
    reader: FramesReader, chain: Int[ndarray, "steps"], energies: Float[ndarray, "samples"], seed: int
) -> Iterator[Frames]:
    """The frames of a chain, block by block."""
    provenance = {**reader.provenance, "chain": "independent Metropolis", "chain_seed": seed}
    first = int(chain[0])
    carried = reader.read(first, first + 1)
    for start in range(first, len(reader), BLOCK):
        candidates = concatenate([carried, reader.read(start, start + BLOCK)])
        states = chain[start - first : start - first + BLOCK]
        # whatever was proposed before this block is the state that it begins in
        frames = candidates[np.maximum(states - start + 1, 0)]
        yield replace(frames, energies=energies[states], log_weights=None, provenance=provenance)
        carried = frames[-1:]
