"""The matrix of versions in its short form: the environment at hand, two files of tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "soak"))

import version_matrix


@pytest.mark.slow
def test_passed_failed_and_skipped_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "test_three.py"
    file.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert False\ndef test_left(): pytest.skip('no')\n",
        encoding="utf-8",
    )
    tests = (*version_matrix.QUICK, str(file))
    found = version_matrix.test(Path(sys.executable), tests, tmp_path)
    assert found["passed"] > 10
    assert found["skipped"] == 1
    assert [name.rpartition("::")[2] for name in found["failed"]] == ["test_bad"]


def test_cuda_is_seen_by_its_libraries() -> None:
    assert version_matrix.is_cuda({"torch": "2.13.0", "nvidia-cublas": "13.1.1.3"})
    assert not version_matrix.is_cuda({"torch": "2.13.0+cpu"})
