"""The settings of a training run as a commented file; the comments are those of the classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..core.architecture import FlowSettings
from .config import AnnealingSettings, LossWeights, RefiningSettings, TrainSettings

WIDTH = 88
NESTED: dict[str, type] = {
    "flow": FlowSettings,
    "weights": LossWeights,
    "annealing": AnnealingSettings,
    "refining": RefiningSettings,
}


def settings_template() -> str:
    """All settings with their defaults as YAML, each below a comment with its meaning and unit.

    `read_settings` reads it back as the defaults.
    """
    head = ["# Settings of smoothflow train. Every field has its default; leave out what you do not change."]
    return "\n".join([*head, *_fields(TrainSettings, TrainSettings().model_dump(mode="json"), "")]) + "\n"


def attributes(owner: type) -> dict[str, str]:
    """The description of each attribute in the docstring of a class.

    Args:
        owner: A class whose docstring has a section "Attributes:".
    """
    section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}


def _fields(owner: type, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    meaning = attributes(owner)
    for name, value in values.items():
        comment = meaning[name].replace("``", "")
        if not indent:
            yield ""
        yield from textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if name in NESTED:
            yield f"{indent}{name}:"
            yield from _fields(NESTED[name], value, indent + "  ")
        else:
            yield textwrap.indent(yaml.safe_dump({name: value}, sort_keys=False).rstrip(), indent)
