"""Packages that only some features need."""

from __future__ import annotations

from pathlib import Path

import pytest
from smoothflow.core.errors import MissingDependencyError
from smoothflow.core.optional import import_optional


def test_a_package_that_lacks_another_is_not_missing_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "incomplete_engine.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        import_optional("incomplete_engine", "The test", "all")
    with pytest.raises(MissingDependencyError, match=r'The test needs the package "nowhere_to_be_found"'):
        import_optional("nowhere_to_be_found.inside", "The test", "all")
    assert import_optional("json.decoder", "The test", "all").__name__ == "json.decoder"
