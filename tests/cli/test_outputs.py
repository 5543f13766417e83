"""What a command writes: new files, or its own earlier ones; nobody else's is ever replaced, cut or followed."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from smoothflow.cli.app import app
from smoothflow.core.errors import SmoothflowError
from smoothflow.core.files import write_atomically
from smoothflow.molecules.frames_file import FramesWriter, read_frames
from smoothflow.runs.appended import AppendedFile

Smoothflow = Callable[..., Any]
Chain = Any

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
SAMPLE = "sample {model} -n 10"
MD = "md {model} --start {frames} --steps 2 --energy-bound 1e6"
WRITES = {
    ("demo", "output"): "demo --out {folder}",
    ("fit", "output"): "fit capped-alanine --out {folder}",
    ("transfer", "output"): "transfer {model} --reference " + AMBER + " --cheap none --evaluations 2 --out {folder}",
    ("simulate", "output"): "simulate capped-alanine -n 1 --walkers 1 --ladder none --out {file}",
    ("init", "path"): "init {file}",
    ("train", "output"): "train {frames} --steps 1 --out {folder}",
    ("reproduce", "output"): "reproduce {run} --out {folder}",
    ("evaluate", "report"): "evaluate {model} {frames} -n 10 --report {file}",
    ("sample", "output"): SAMPLE + " --out {file}",
    ("sample", "metropolis"): SAMPLE + " --out {tmp}/new.h5 --reference " + AMBER + " --metropolis {file}",
    ("md", "output"): MD + " --out {file}",
    ("md", "trajectory"): MD + " --trajectory {file}.xtc",
    ("md", "log"): MD + " --log {file}",
    ("md", "compiled"): MD + " --compiled {file}",
    ("compile", "output"): "compile {model} --out {file}",
    ("compare", "output"): "compare --target torus-multimodal --steps 1 --out {folder}",
    ("convert", "destination"): "convert {frames} {file}.xyz",
    ("bench", "output"): "bench --out {file}",
}
"""Every option and argument that names something to write, and a command that would write it at once."""

READS = {
    ("train", "frames"),
    ("train", "config"),
    ("reproduce", "folder"),
    ("reproduce", "frames"),
    ("evaluate", "frames"),
    ("sample", "frames"),
    ("thermo", "samples"),
    ("md", "start"),
    ("compile", "frames"),
    ("compare", "frames"),
    ("compare", "held_out"),
    ("compare", "config"),
    ("convert", "source"),
    ("check", "frames"),
    ("bench", "compare"),
}
"""Every option and argument that names something to read."""

FOLDERS = {
    "demo": ("metrics.json", "report.html"),
    "fit": ("fit.json", "fit.log", "model.safetensors", "report.html", "metrics.json", "frames.h5"),
    "transfer": ("transfer.json", "evaluations-0.h5"),
    "train": ("config.yaml", "frames.json", "metrics.csv", "run.log", "model.safetensors", "checkpoints/last.ckpt"),
    "reproduce": ("config.yaml", "frames.json", "metrics.csv", "run.log", "model.safetensors", "checkpoints/last.ckpt"),
    "compare": ("comparison.json", "maps.png", "profiles.png", "report.html"),
}
"""Files that a command whose output is a folder writes there."""


def paths_of_commands() -> set[tuple[str, str]]:
    """Command and name of every parameter that is a path."""
    found = set()
    for command in app.registered_commands:
        assert command.callback is not None
        for name, kind in typing.get_type_hints(command.callback).items():
            if Path in parts_of(kind):
                found.add((str(command.name), name))
    return found


def parts_of(kind: object) -> set[object]:
    """A type, and those that it is made of: ``list[Path] | None`` of ``Path`` among others."""
    return {kind}.union(*map(parts_of, typing.get_args(kind)))


def test_every_path_is_listed_as_read_or_written() -> None:
    found = paths_of_commands()
    assert len(found) > 20
    assert found == set(WRITES) | READS


def obstacles(path: Path) -> Mapping[str, Callable[[], object]]:
    other = path.with_name("other.txt")
    return {
        "text": lambda: path.write_text("mine\n"),
        "page": lambda: path.write_text("<!doctype html>\n<html><title>mine</title></html>\n"),
        "link": lambda: (other.write_text("mine\n"), path.symlink_to(other)),
        "dangling link": lambda: path.symlink_to(other),
        "folder": lambda: path.mkdir(),
        "pipe": lambda: os.mkfifo(path),
    }


def what_is_there(folder: Path) -> dict[str, object]:
    """Everything in a folder: links, the bytes of files, and what else there is."""
    return {
        str(path.relative_to(folder)): (
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else path.lstat().st_mode
        )
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".")
    }


@pytest.mark.parametrize("obstacle", obstacles(Path("any")))
@pytest.mark.parametrize("written", [key for key in WRITES if key[0] not in FOLDERS], ids="-".join)
def test_a_command_leaves_files_of_others_untouched(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, written: tuple[str, str], obstacle: str
) -> None:
    file = tmp_path / "place" / "mine"
    file.parent.mkdir()
    command = WRITES[written].format(file=file, tmp=tmp_path, frames=chain.frames, model=chain.model).split()
    (target,) = (Path(word) for word in command if word.startswith(str(file)))
    obstacles(target)[obstacle]()
    before = what_is_there(file.parent)
    found = smoothflow(*command)
    assert found.code == 2, found.out + found.err
    assert len(found.err.strip().splitlines()) == 1, found.err
    assert str(target) in found.err
    assert what_is_there(file.parent) == before


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in FOLDERS.items() for name in names])
def test_a_folder_with_files_of_others_is_refused(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, command: str, name: str
) -> None:
    folder = tmp_path / "place"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine\n")
    before = what_is_there(folder)
    names = {"folder": folder, "frames": chain.frames, "run": chain.model.parent, "model": chain.model}
    found = smoothflow(*WRITES[command, "output"].format(**names).split())
    assert found.code == 2, found.out + found.err
    assert len(found.err.strip().splitlines()) == 1, found.err
    assert str(folder / name) in found.err
    assert {key: value for key, value in what_is_there(folder).items() if key != "checkpoints"} == {
        key: value for key, value in before.items() if key != "checkpoints"
    }


def test_a_preset_in_the_folder_of_a_comparison_is_not_replaced(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path
) -> None:
    preset = tmp_path / "comparison.yaml"
    preset.write_text("# notes of mine\ntransforms: {affine: {transforms: {line: affine}}}\nobjectives: {nll: {}}\n")
    before = preset.read_bytes()
    found = smoothflow("compare", chain.frames, "--preset", preset, "--out", tmp_path)
    assert found.code == 2
    assert str(preset) in found.err
    assert preset.read_bytes() == before


def test_an_earlier_report_is_replaced(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    command = ("evaluate", chain.model, chain.frames, "-n", 20, "--report", report)
    assert smoothflow(*command, "--seed", 1).code == 0
    first = report.read_bytes()
    assert smoothflow(*command, "--seed", 2).code == 0
    assert report.read_bytes() != first


@pytest.mark.parametrize("options", [("--log", "--trajectory"), ("--out", "--log")])
def test_two_outputs_of_one_name_are_refused(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, options: tuple[str, str]
) -> None:
    name = tmp_path / "run.xtc"
    found = smoothflow(
        *MD.format(model=chain.model, frames=chain.frames).split(), *sum(((o, name) for o in options), ())
    )
    assert found.code == 2
    assert "two different files" in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--log", "--trajectory"])
def test_a_run_that_goes_on_does_not_cut_a_file_of_another(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, option: str
) -> None:
    md = MD.format(model=chain.model, frames=chain.frames).split()
    suffix = ".csv" if option == "--log" else ".xtc"
    assert smoothflow(*md, "--out", tmp_path / "a.h5").code == 0
    # a longer run of the same model, which has lines and frames to lose
    other = tmp_path / f"other{suffix}"
    assert smoothflow(*md, "--steps", 50, option, other).code == 0
    before = other.read_bytes()
    found = smoothflow(*md, "--steps", 4, "--out", tmp_path / "a.h5", option, other)
    assert found.code == 2, found.err
    assert str(other) in found.err
    assert other.read_bytes() == before


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text("mine\n")


@pytest.mark.parametrize("lose", [removed, replaced])
def test_frames_whose_file_is_gone_are_not_called_written(
    chain: Chain, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    frames, path = read_frames(chain.frames)[:10], tmp_path / "f.h5"
    writer = FramesWriter.create(path, frames)
    writer.append(frames)
    lose(path)
    with pytest.raises(SmoothflowError, match=r'f\.h5" cannot be written: it was re(mov|plac)ed'):
        writer.append(frames)
    with pytest.raises(SmoothflowError, match=r'f\.h5" cannot be written: it was re(mov|plac)ed'):
        writer.close()
    assert not path.exists() or path.read_text() == "mine\n"


@pytest.mark.parametrize("lose", [removed, replaced])
def test_a_table_whose_file_is_gone_is_not_called_written(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    file = AppendedFile(tmp_path / "log.csv")
    file.append(b"line\n")
    lose(file.path)
    with pytest.raises(SmoothflowError, match=r'log\.csv" cannot be written: it was re(mov|plac)ed'):
        file.close()


@pytest.mark.parametrize("command", ["sample {model} -n 3000 --out {file}", MD + " --report-every 1 --log {file}"])
@pytest.mark.parametrize("lose", [removed, replaced])
def test_output_that_vanishes_during_a_run_is_an_error(
    smoothflow: Smoothflow,
    chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    lose: Callable[[Path], None],
) -> None:
    file = tmp_path / "mine"
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        if file.exists():
            lose(file)

    monkeypatch.setattr(os, "fsync", sync)
    found = smoothflow(*command.format(file=file, model=chain.model, frames=chain.frames).split())
    assert found.code == 2, found.out + found.err
    assert len(found.err.strip().splitlines()) == 1
    assert str(file) in found.err


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(SmoothflowError, match="symbolic link"):
        write_atomically(tmp_path / "link", b"ours")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SmoothflowError, match="not a regular file"):
        write_atomically(tmp_path / "pipe", b"ours")
    assert (tmp_path / "pipe").is_fifo()
