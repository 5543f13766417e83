"""Configurations that somebody made to do harm: one clear error, at once, in little memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from smoothflow.runs.settings_file import MAX_BYTES

Refused = Callable[[Mapping[str, Any]], None]

NEARLY_ALL = MAX_BYTES - 100
GRID = "transforms: {smooth: {}}\nobjectives: {nll: {}}\n"
LINE = "transforms: {line: affine}"

LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [*{before}, *{before}]" for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)

TEXTS: dict[str, str] = {
    "a billion laughs": LAUGHS,
    "nested lists": "[" * NEARLY_ALL,
    "nested mappings": "a: " + "{a: " * (NEARLY_ALL // 4),
    "nested blocks": "\n".join(" " * i + "a:" for i in range(200)),
    "nested dashes": "- " * (NEARLY_ALL // 2),
    "nested questions": "? " * (NEARLY_ALL // 2),
    "many digits": "steps: " + "9" * NEARLY_ALL,
    "many hexadecimal digits": "steps: 0x" + "f" * NEARLY_ALL,
    "many digits to the base of 60": "steps: " + ":".join(["59"] * (NEARLY_ALL // 3)),
    "a fraction to the base of 60": "learning_rate: " + ":".join(["59"] * (NEARLY_ALL // 3)) + ".5",
    "many digits in quotes": "learning_rate: '" + "9" * NEARLY_ALL + "'",
    "many digits in an option": "flow: {options: {smooth: {n_components: " + "9" * NEARLY_ALL + "}}}",
    "beyond floats": "learning_rate: 1e999",
    "a billion pairs": "flow: {line_pairs: 1000000000}",
    "a billion units": "flow: {hidden: 1000000000}",
    "a z-matrix of nothing": "zmatrix: [" + "[]," * 9_000 + "]",
    "a name twice": "steps: 3\nsteps: 4",
    "many names twice": "{" + "a," * (NEARLY_ALL // 2) + "}",
    "many names": "\n".join(f"k{i}: 1" for i in range(3_000)),
    "a long name": "? " + "a" * NEARLY_ALL + "\n: 3",
    "names of other types": "1: 2",
    "names of other types inside": "flow: {options: {1: {2: 3}}}",
    "a list for a name": "? [a]\n: 2",
    "python": "steps: !!python/object/apply:os.system ['false']",
    "another tag": "!foo bar",
    "binary": "steps: !!binary '*'",
    "a day that never was": "steps: 2001-99-99",
    "two documents": "steps: 3\n---\nsteps: 4",
    "another version": "%YAML 9.9\n---\nsteps: 3",
    "a merge of nothing": "<<: 3\n",
    "characters that control a terminal": '"\\e[31m": 3',
    "half a character": 'a: "\\ud800"',
    "quotes": "'" * NEARLY_ALL,
    "ampersands": "&" * NEARLY_ALL,
    "exclamation": "!" * NEARLY_ALL,
    "too large": "#" * (MAX_BYTES + 1),
}

GRIDS: dict[str, str] = {
    "a folder above": f"transforms: {{../x: {{{LINE}}}}}\nobjectives: {{nll: {{}}}}",
    "the folder above": f"transforms: {{..: {{{LINE}}}}}\nobjectives: {{nll: {{}}}}",
    "an absolute folder": f"transforms: {{/x: {{{LINE}}}}}\nobjectives: {{nll: {{}}}}",
    "a folder of two lines": f'transforms: {{"a\\n": {{{LINE}}}}}\nobjectives: {{nll: {{}}}}',
    "a folder with an end": f'transforms: {{"a\\0": {{{LINE}}}}}\nobjectives: {{nll: {{}}}}',
    "a number for a folder": "transforms: {1: {}}\nobjectives: {nll: {}}",
    "options that are none": "transforms: {smooth: {options: {smooth: 3}}}\nobjectives: {nll: {}}",
    "options of numbers": "transforms: {smooth: {options: {smooth: {1: 2}}}}\nobjectives: {nll: {}}",
    "a training that is none": f"{GRID}training: [1]",
    "a flow that is none": f"{GRID}training: {{flow: 3}}",
    "time steps that are none": f"{GRID}dynamics: {{timesteps: [.nan, .inf]}}",
}


@pytest.mark.parametrize(("kind", "good", "texts"), [("settings", "", TEXTS), ("comparison", GRID, {**TEXTS, **GRIDS})])
def test_hostile_configurations_are_refused(
    tmp_path: Path, open_hostile: Any, assert_refused: Refused, kind: str, good: str, texts: Mapping[str, str]
) -> None:
    (tmp_path / "good.yaml").write_text(good)
    files = {name: tmp_path / f"{i}.yaml" for i, name in enumerate(texts)}
    for name, text in texts.items():
        files[name].write_text(text)
    found = open_hostile(kind, tmp_path / "good.yaml", files)
    assert_refused(found)
    assert all(opened.message.isprintable() for opened in found.values())


def test_names_that_lead_elsewhere(tmp_path: Path, open_hostile: Any, assert_refused: Refused) -> None:
    (tmp_path / "good.yaml").write_text("")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    files: dict[str, str | Path] = {name: tmp_path / f"{name}.yaml" for name in ("pipe", "loop", "missing")}
    files |= {"a folder": tmp_path, "zeros": "/dev/zero", "letters": "x" * 300 + ".yaml"}
    assert_refused(open_hostile("settings", tmp_path / "good.yaml", files))
