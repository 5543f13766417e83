"""Write the page of reliability from what the scripts in ``tools/soak`` kept; no figure on it is typed by hand.

    python docs/reliability/build.py

Reads ``docs/reliability/*.json`` and writes ``docs/reliability.md``: the text of ``docs/reliability/introduction.txt``,
then one section for each file.
"""

from __future__ import annotations

import json
from pathlib import Path

from smoothflow.core.files import write_atomically

FOLDER = Path(__file__).resolve().parent


def section(path: Path) -> list[str]:
    """Heading, table of figures, and the command that makes them."""
    found = json.loads(path.read_text(encoding="utf-8"))
    origin = found["origin"]
    lines = [f"## {found['title']}", "", "| | |", "| --- | --- |"]
    shown = {name: str(value).replace("|", r"\|") for name, value in found["figures"].items()}
    lines += [f"| {name} | {value} |" for name, value in shown.items()]
    lines += ["", "```bash", origin["command"], "```", ""]
    lines += [f"{found['seconds']} s, commit `{origin['commit']}`, torch {origin['torch']}, {origin['machine']}.", ""]
    return lines


def main() -> None:
    lines = [(FOLDER / "introduction.txt").read_text(encoding="utf-8").rstrip(), ""]
    for path in sorted(FOLDER.glob("*.json")):
        lines += section(path)
    write_atomically(FOLDER.with_suffix(".md"), "\n".join(lines).encode())


if __name__ == "__main__":
    main()
