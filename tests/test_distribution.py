"""The wheel and the source archive: all packages with their data, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import smoothflow

ROOT = Path(smoothflow.__file__).parent
CLUTTER = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "smoothflow-demo", "*.egg-info")
BUILD = "from setuptools.build_meta import build_sdist, build_wheel; build_sdist('dist'); build_wheel('dist')"


def packed() -> set[str]:
    """The files of the packages and their data, relative to the root."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: ROOT.joinpath(*name.split(".")[1:]) for name in settings["packages"]}
    files = {path for folder in folders.values() for path in folder.glob("*.py")}
    for name, patterns in settings["package-data"].items():
        for pattern in patterns:
            found = set(folders[name].glob(pattern))
            assert found, f"{pattern} finds nothing"
            files |= found
    return {path.relative_to(ROOT).as_posix() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source archive."""
    source = tmp_path_factory.mktemp("build") / "source"
    # a copy, since what an earlier build left behind would go into the wheel
    shutil.copytree(ROOT, source, ignore=CLUTTER)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    return source / "dist"


@pytest.mark.slow
def test_wheel_and_source_archive_hold_the_packages_and_their_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"smoothflow/{name}" for name in packed()}
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    generated = {"PKG-INFO", "setup.cfg"} | {name for name in inside if name.startswith("smoothflow.egg-info/")}
    assert inside - generated == packed() | {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}


@pytest.mark.slow
def test_the_wheel_works_away_from_the_clone(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    # a wheel without compiled code is installed by unpacking it
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = """
import smoothflow
from smoothflow.studies.comparison.settings import preset_names
from smoothflow.cli import main
print(smoothflow.__file__, preset_names())
main()
"""
    command = [sys.executable, "-c", program, "info", "ala2-affine"]
    # the working directory comes first where Python looks
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(
        f"{tmp_path / 'smoothflow' / '__init__.py'} ['alanine-dipeptide', 'alanine-tetrapeptide']"
    )
    assert "temperature" in found.stdout
