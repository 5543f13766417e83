"""Write a page of results from what ``smoothflow compare`` kept; nothing on it is typed by hand.

    python docs/results/build.py COMPARISON_FOLDER docs/results/alanine-dipeptide.md

The page's figures go into a folder beside it, named like the page.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from smoothflow.core.errors import FileFormatError, SmoothflowError
from smoothflow.core.files import write_atomically
from smoothflow.studies.comparison.cell import MODELS
from smoothflow.studies.comparison.measured import Measured, read_measured
from smoothflow.studies.comparison.report import comparison_tables, markdown, shared_pictures
from smoothflow.studies.report import Picture

FIGURES = ("Ramachandran", "Forces", "Energy overlap")
"""Pictures of a cell that the page shows, by the beginnings of their titles."""


def build(folder: Path, page: Path) -> None:
    """Write the page of a comparison and its figures.

    Args:
        folder: The comparison's.
        page: A Markdown file.

    Raises:
        FileFormatError: If the folder holds no comparison, or something cannot be written.
    """
    summary, settings = folder / "comparison.json", folder / "comparison.yaml"
    if not summary.exists() or not settings.exists():
        raise FileFormatError(
            f'"{folder}" holds no comparison. Make one: smoothflow compare --preset NAME --out FOLDER.'
        )
    content = json.loads(summary.read_text(encoding="utf-8"))
    grid = yaml.safe_load(settings.read_text(encoding="utf-8"))
    cells = [_read(folder / cell["title"] / "evaluation.json") for cell in content["cells"]]
    reference = _read(folder / "reference.json")
    images = page.with_suffix("")
    images.mkdir(parents=True, exist_ok=True)
    for stale in images.glob("*.png"):
        # figures of an earlier page
        stale.unlink()
    last = list(grid["objectives"])[-1]
    pictures = shared_pictures(cells, reference, [*grid["transforms"], MODELS])
    for cell in cells:
        if cell.title.endswith(f"/{last}") or cell.title.startswith(f"{MODELS}/"):
            pictures += [
                Picture(f"{cell.title}: {picture.title}", picture.caption, picture.png)
                for picture in cell.read_pictures()
                if picture.title.startswith(FIGURES)
            ]
    lines = [
        f"# {page.stem.replace('-', ' ').capitalize()}",
        "",
        "Written by `docs/results/build.py` from the files of `smoothflow compare`. What the numbers mean, and when "
        "not to trust them: [metrics](../reference/metrics.md).",
        "",
        *_without_shear(content),
    ]
    for table in comparison_tables(cells, reference):
        lines += [f"## {table.title}", "", markdown(table)]
    lines += ["## Figures", ""]
    for picture in pictures:
        name = figure_name(picture.title)
        write_atomically(images / name, picture.png)
        lines += [f"**{picture.title}.** {picture.caption}", "", f"![{picture.title}]({images.name}/{name})", ""]
    lines += [*_origins([*cells, reference]), *_data(content, folder), *_settings(settings)]
    write_atomically(page, "\n".join(lines).encode())


def figure_name(title: str) -> str:
    """The file of a figure, by what it shows."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".png"


def _read(path: Path) -> Measured:
    found = read_measured(path)
    if found is None:
        raise FileFormatError(f'There is no file "{path}", though the comparison names it. Run the comparison again.')
    return found


def _origins(rows: list[Measured]) -> Iterator[str]:
    """Command, commit and machine, once for all rows that share them."""
    yield from ("## Where the numbers come from", "")
    shared: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in rows:
        shared.setdefault(tuple(row.origin.items()), []).append(row.title)
    for origin, titles in shared.items():
        yield from (f"{', '.join(titles)}:", "")
        yield from (f"- {name}: `{value}`" for name, value in origin)
        yield ""


def _without_shear(content: dict[str, Any]) -> list[str]:
    """A line for comparisons from before flows had a shear."""
    trained = [cell["identity"]["training"]["flow"] for cell in content["cells"] if "training" in cell["identity"]]
    if any(flow.get("shear") for flow in trained):
        return []
    return [
        "These flows have no [shear](../explanation/shear.md): today's settings need `flow.shear: false` for them.",
        "",
    ]


def _data(content: dict[str, Any], folder: Path) -> Iterator[str]:
    """The frames, by their digests and provenance, and the seeds."""
    trained = [cell["identity"] for cell in content["cells"] if "training" in cell["identity"]]
    kept = (folder / cell["title"] / "frames.json" for cell in content["cells"])
    known = {path.read_text(encoding="utf-8") for path in kept if path.exists()}
    for frames in map(json.loads, sorted(known)):
        made = ", ".join(f"{name} {value}" for name, value in frames["provenance"].items())
        yield f"- {frames['frames']} frames to train on: {made}"
    for name, what in (("frames", "Frames to train on"), ("held_out", "Held-out frames")):
        digests = {identity[name] for identity in trained}
        yield from (f"- {what}, SHA-256 of the arrays: `{digest}`" for digest in sorted(digests))
    seeds = {
        "samples": [cell["identity"]["seed"] for cell in content["cells"]],
        "dynamics": [cell["identity"]["dynamics"]["seed"] for cell in content["cells"]],
        "training": [identity["training"]["seed"] for identity in trained],
        "initial weights": [identity["training"]["flow"]["seed"] for identity in trained],
    }
    shown = (f"{name} {', '.join(map(str, sorted(set(values))))}" for name, values in seeds.items())
    yield from (f"- seeds: {'; '.join(shown)}", "")


def _settings(path: Path) -> Iterator[str]:
    yield from ("All settings:", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", "")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        build(Path(sys.argv[1]), Path(sys.argv[2]))
    except SmoothflowError as error:
        sys.exit(f"error: {error}")
