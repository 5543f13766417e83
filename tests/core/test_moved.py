"""Modules of version 0.1 under their old names."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from smoothflow.core.moved import MOVED

# TorchSim, whose modules import it, needs a newer Python
KNOWN = sorted(old for old in MOVED if sys.version_info >= (3, 12) or "torchsim" not in old)


@pytest.mark.parametrize("old", KNOWN)
def test_old_names_of_modules_warn_and_give_the_module(old: str) -> None:
    sys.modules.pop(f"smoothflow.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"smoothflow.{old} is now smoothflow.{MOVED[old]}; the old name goes"):
        module = importlib.import_module(f"smoothflow.{old}")
    new = importlib.import_module(f"smoothflow.{MOVED[old]}")
    assert module is new
    assert new.__name__ == f"smoothflow.{MOVED[old]}"
    assert new.__spec__.name == new.__name__


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"smoothflow\.training\.nothing"):
        importlib.import_module("smoothflow.training.nothing")


def test_objects_come_from_old_names() -> None:
    program = "from smoothflow.training.frames_file import read_frames; print(read_frames.__module__)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "smoothflow.molecules.frames_file"
