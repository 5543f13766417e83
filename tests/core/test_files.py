"""Files are complete or not there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from smoothflow.core.errors import FileFormatError
from smoothflow.core.files import MAX_DEPTH, file_digest, make_folder, parse_json, write_atomically


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    for content in (b"first" * 100_000, b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert file_digest(path) == hashlib.sha256(content).hexdigest()
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_of_any_other(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "ours", b"x")
        (tmp_path / "any").write_bytes(b"x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    ours, other = ((tmp_path / name).stat().st_mode for name in ("ours", "any"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(other) == 0o666 & ~umask


def test_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sync, seen = tmp_path / "f", os.fsync, []

    def spy(descriptor: int) -> None:
        assert not path.exists()
        (temporary,) = tmp_path.iterdir()
        # in the same folder, hidden, and by its name somebody can tell whose it was
        assert temporary.name.startswith(".f.")
        seen.append(temporary.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_atomically(path, b"content")
    assert seen == [b"content"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r'none/f" cannot be written: No such file or directory'):
        write_atomically(tmp_path / "none" / "f", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match=r'folder" cannot be written: Is a directory'):
        write_atomically(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        make_folder(folder)
        assert folder.is_dir()
    (folder / "file").touch()
    with pytest.raises(FileFormatError, match=r'file/c" cannot be made: Not a directory'):
        make_folder(folder / "file" / "c")


@pytest.mark.parametrize(
    "value", [3, -1.5, None, True, "x", [], {}, [[1, {"a": [2]}], {"b": None}], 2**63 - 1, {"a": 1, "b": {"a": 1}}]
)
def test_json_is_read_as_anybody_reads_it(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value


def test_json_is_nested_as_deeply_as_allowed_and_no_deeper() -> None:
    def nested(depth: int) -> str:
        return (depth // 2) * '[{"a":' + (depth % 2) * "[" + "0" + (depth % 2) * "]" + (depth // 2) * "}]"

    assert json.dumps(parse_json(nested(MAX_DEPTH - 1))) == nested(MAX_DEPTH - 1).replace(":", ": ")
    for depth in (MAX_DEPTH, 200_000):
        with pytest.raises(ValueError, match="nested more than 32 levels"):
            parse_json(nested(depth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "b": 3}', '"b" is there twice'),
        ('[{"x": {"a": 1, "a": 1}}]', '"a" is there twice'),
        (f"[{'9' * 21}]", "a whole number has 21 digits"),
        ("[1, 2", "delimiter"),
        (b"\xff\xfe\xff", "decode"),
    ],
)
def test_json_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
