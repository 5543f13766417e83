"""Whether two runs are the same, and what is said where they are not."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from smoothflow.core.errors import ConfigurationError
from smoothflow.runs.provenance import differences, require_same_run, versions

RUN = {"seed": 1, "engine": "verlet", "files": {"a.xml": "12"}, "versions": {"torch": "1"}}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({**RUN, "seed": 2}, "seed is 2 there and 1 here"),
        ({**RUN, "files": {"a.xml": "34"}}, "files.a.xml is 34 there and 12 here"),
        # a file that is gone, and one that was not there
        ({**RUN, "files": {"a.xml": "12", "b.xml": "56"}}, "files.b.xml is 56 there and nothing here"),
        ({**RUN, "files": {}}, "files.a.xml is nothing there and 12 here"),
        ({name: RUN[name] for name in ("seed", "files")}, "engine is nothing there and verlet here"),
        ({**RUN, "files": 3}, r"files is 3 there and \{'a.xml': '12'\} here"),
    ],
)
def test_another_run_is_refused_with_its_first_difference(there: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f'^"f.h5" is of another run: {said}. Choose another name'):
        require_same_run('"f.h5"', there, RUN)


def test_versions_and_what_is_known_beyond_the_run_do_not_make_another() -> None:
    there = {**RUN, "versions": {"torch": "2"}, "written": ["f.h5"]}
    require_same_run('"f.h5"', there, RUN)
    assert list(differences(there, RUN, ignored=())) == [("versions.torch", "2", "1")]


def test_versions_are_those_of_what_is_installed() -> None:
    assert versions("torch", "no-such-distribution") == {"torch": version("torch")}
