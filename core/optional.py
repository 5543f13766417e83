"""Packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingDependencyError


def import_optional(module: str, feature: str, extra: str) -> Any:
    """A module of an optional package.

    Args:
        module: Its full name.
        feature: What needs it, for the message.
        extra: The extra of this package that installs it.

    Raises:
        MissingDependencyError: If the package is not installed; says which extra has it.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)  # a part of it may be loaded where the whole has been taken away
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise MissingDependencyError(feature, package, extra) from error
