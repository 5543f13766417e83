"""Text of files, plug-ins and names on the terminal: in no command does it become more than text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load, save
from smoothflow.cli import app
from smoothflow.cli.console import complain, note, print_table, say, task_progress
from smoothflow.core.plugins import BrokenPlugin, registry
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import write_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.model_file import read_header
from smoothflow.runs.progress import Progress
from smoothflow.studies.report import Report, Table, render_report
from smoothflow.training.run_folder import journal_of

NASTY = [
    "\x1b[2J\x1b]0;title\x07",
    "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m",
    "[link=https://example.org]text[/link]",
    r"\[link=https://example.org]text\[/link]",
    r"\\[bold]x\\[/bold]",
    "[/]",
    "[/red] [bold",
    "[@click=app.bell]x[/]",
    ":smiley: :pile_of_poo:",
    "\u202eexe.pdb\u2066",
    "\u200b\u200f\ufeff\u00ad",
    "\udc80\ud800",
    "\u2028\u2029\x85\r\n",
    "a" * 100_000,
    "a" + "\u0301" * 1000,
    "https://example.org/?a=b {x} %s %(x)s $(reboot) `reboot`",
    "",
    "\0",
]
SHORT = [text for text in NASTY if "\0" not in text and len(text) < 200]
HIDDEN = set("\x1b\x07\x9b\u202e\u2066\u200b\u200f\ufeff\u00ad\udc80\ud800\u2028\u2029\x85\r\0")


def assert_harmless(shown: str, text: str) -> None:
    assert not HIDDEN & set(shown)
    assert len(shown) < 50_000
    if text.isascii() and text.isprintable() and len(text) < 200:
        # nothing that looks like markup was taken for it: as long as written, but for the folds of a table
        assert "".join(text.split()) in "".join(
            letter for letter in shown if letter not in "│┃|" and not letter.isspace()
        )


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_printed_harmlessly_by_every_command(capsys: pytest.CaptureFixture[str], text: str) -> None:
    for write in (note, say, lambda t: complain("error", "red", t), lambda t: print_table(t, ["x"], [["1"]])):
        write(text)
        found = capsys.readouterr()
        assert_harmless(found.out + found.err, text)
    print_table("Title", [text], [[text]])
    assert_harmless(capsys.readouterr().out, text)
    app._show_warning(text)
    assert_harmless(capsys.readouterr().err, text)
    with task_progress() as report:
        report(Progress(text, 1, 2, {text: 1.0}))
    found = capsys.readouterr()
    assert_harmless(found.out + found.err, "")


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_in_the_log_and_the_report_is_harmless(tmp_path: Path, text: str) -> None:
    with journal_of(tmp_path / "run.log") as write:
        write(text)
    (line,) = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert not HIDDEN & set(line)
    page = render_report(
        Report(text, paragraphs=[text], tables=[Table(text, (text,), [[text]], text)], provenance={text: text})
    )
    page.encode("utf-8")
    assert not HIDDEN - {"\r"} & set(page)


@pytest.fixture(scope="module")
def model_text() -> tuple[bytes, dict[str, Any]]:
    shipped = registry().model_path("ala2-affine")
    return shipped.read_bytes(), read_header(shipped)


def test_nasty_text_in_a_model_is_printed_harmlessly(
    smoothflow: Any, tmp_path: Path, model_text: tuple[bytes, dict[str, Any]]
) -> None:
    content, header = model_text
    said = {text: text for text in NASTY}
    header = {**header, "provenance": {**said, "evaluation": {text: {text: [text]} for text in NASTY}}}
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(load(content), metadata={"smoothflow": json.dumps(header)}))
    done = smoothflow("info", path)
    assert done.code == 0, done.err
    assert not HIDDEN & set(done.out + done.err)
    assert smoothflow("info", path, "--json").out.isascii()


def test_nasty_text_in_frames_is_printed_harmlessly(smoothflow: Any, tmp_path: Path) -> None:
    topology, positions = topology_from_pdb(molecule_path("water"))
    path = tmp_path / "frames.h5"
    provenance = {**{text: text for text in NASTY}, "bonds": " ".join(NASTY)}
    write_frames(path, Frames(topology, 300.0, positions.numpy().astype(np.float32), provenance=provenance))
    for command in (["info", path], ["convert", path, tmp_path / "new.npz"]):
        done = smoothflow(*command)
        assert done.code == 0, done.err
        assert not HIDDEN & set(done.out + done.err)


@pytest.mark.parametrize("command", ["info", "check", "evaluate", "convert", "train", "sample", "md", "compare"])
def test_nasty_text_on_the_command_line_is_harmless(smoothflow: Any, tmp_path: Path, command: str) -> None:
    text = " ".join(SHORT)
    others = {
        "evaluate": [tmp_path / "x.h5"],
        "convert": [tmp_path / "new.h5"],
        "train": ["--out", tmp_path / "run"],
        "sample": ["--out", tmp_path / "new.h5"],
        "compare": ["--out", tmp_path / "out"],
    }
    done = smoothflow(command, f"{tmp_path}/{text}.none", *others.get(command, []))
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not HIDDEN & set(done.out + done.err)
    traced = smoothflow("--debug", command, f"{tmp_path}/{text}.none", *others.get(command, []))
    assert not HIDDEN & set(traced.out + traced.err)


@pytest.mark.parametrize("text", NASTY[::3])
def test_nasty_text_in_settings_is_harmless(smoothflow: Any, tmp_path: Path, text: str) -> None:
    config, frames = tmp_path / "config.yaml", tmp_path / "frames.h5"
    topology, positions = topology_from_pdb(molecule_path("water"))
    write_frames(frames, Frames(topology, 300.0, positions.numpy().astype(np.float32)))
    for content in (f"dtype: {json.dumps(text)}", f"{json.dumps(text)}: 1", text):
        config.write_bytes(content.encode("utf-8", errors="surrogatepass"))
        done = smoothflow("train", frames, "--config", config, "--out", tmp_path / "run", "--steps", "1")
        if content:
            assert done.code == 2, done.err
            assert not HIDDEN & set(done.out + done.err)


def test_nasty_text_of_a_failing_plug_in_is_harmless(smoothflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "broken", [BrokenPlugin(text, text, text, text) for text in NASTY])
    monkeypatch.setattr(registry(), "conflicts", {("model", text): text for text in NASTY})
    done = smoothflow("plugins")
    assert done.code == 0
    assert not HIDDEN & set(done.out + done.err)


@pytest.mark.parametrize(
    ("distribution", "version"),
    [
        ("pkg; curl https://example.org | sh", "1"),
        ("--index-url=https://example.org x", "1"),
        ("git+https://example.org/x", "1"),
        ("pkg", "1; reboot"),
        ("a\nb", "1"),
        ("", "1"),
        (None, None),
        ({"a": 1}, "1"),
    ],
)
def test_a_suggested_command_holds_nothing_but_names_of_distributions(
    smoothflow: Any, tmp_path: Path, model_text: tuple[bytes, dict[str, Any]], distribution: Any, version: Any
) -> None:
    content, header = model_text
    plugins = {"nowhere": {"distribution": distribution, "version": version}}
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(load(content), metadata={"smoothflow": json.dumps({**header, "plugins": plugins})}))
    for command in (["info", path], ["sample", path, "--out", tmp_path / "new.h5"]):
        done = smoothflow(*command)
        assert done.code == 2
        assert "pip install" not in done.err
        assert "names no distribution" in done.err
    plugins = {"nowhere": {"distribution": "some-plugin", "version": "1.0"}}
    path.write_bytes(save(load(content), metadata={"smoothflow": json.dumps({**header, "plugins": plugins})}))
    assert "trust them, install it with: pip install some-plugin." in smoothflow("info", path).err
