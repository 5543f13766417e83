"""Where the random numbers of samples come from."""

from __future__ import annotations

from operator import index

import torch

from .errors import ConfigurationError


def generator_of(n_samples: int, generator: torch.Generator | None, seed: int | None) -> torch.Generator:
    """The generator of what `sample` draws: the one given, or a new one on the CPU, so that a seed says it all.

    Raises:
        ConfigurationError: If there is both a generator and a seed, the generator is not one, the number of samples is
            negative, or the seed is not a whole number that torch takes.
    """
    try:
        if index(n_samples) < 0:
            raise ConfigurationError(f"The number of samples must not be negative; it is {n_samples}.")
    except TypeError as error:
        raise ConfigurationError(f"The number of samples must be a whole number, not {n_samples!r}.") from error
    if generator is not None:
        if seed is not None:
            raise ConfigurationError("Give a generator or a seed, not both: a generator has a seed of its own.")
        if not isinstance(generator, torch.Generator):
            raise ConfigurationError(
                f"The generator is an object of type {type(generator).__name__}. Give a torch.Generator, or a number "
                "as seed=."
            )
        return generator
    new = torch.Generator()
    if seed is None:
        new.seed()
        return new
    try:
        return new.manual_seed(index(seed))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"The seed must be a whole number of 64 bits, not {seed!r}.") from error
