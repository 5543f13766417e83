"""Results of `device_benchmark`, read back and as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import FileFormatError
from .report import Table

FORMAT = "smoothflow-device-benchmark"
SCHEMA = 1


def read_device(path: Path) -> dict[str, Any]:
    """The results of a run.

    Raises:
        FileFormatError: If the file cannot be read or was not written by `measure_device`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(
            f'"{path}" cannot be read: {error.strerror}. Give a file of benchmarks/gpu.py.'
        ) from error
    except ValueError as error:
        raise FileFormatError(f'"{path}" is not JSON: {error}. Give a file that benchmarks/gpu.py wrote.') from error
    if not isinstance(content, dict) or (content.get("format"), content.get("schema")) != (FORMAT, SCHEMA):
        raise FileFormatError(f'"{path}" is not a file of benchmarks/gpu.py of schema {SCHEMA}. Measure again.')
    return content


def describe_run(content: dict[str, Any]) -> str:
    """What was measured and where, in sentences."""
    machine, model = content["machine"], content["model"]
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    ended = "" if content["finished"] else " The run was stopped early; what it had measured is shown."
    return (
        f"{content['device']}: {model['name']}, {model['parameters']:,} parameters, {model['atoms']} atoms; "
        f"{content['minutes']:g} minutes. torch {machine['torch']}{cuda}, commit {machine['commit']}, "
        f"{machine['processor']}, load {machine['load']:.1f} at the start.{ended}"
    )


COLUMNS = {
    "energy and forces": ("batch", "ms per call", "configurations per second"),
    "samples": ("batch", "ms per call", "samples per second"),
    "force field": ("batch", "ms per call", "configurations per second"),
    "weighted samples": ("samples", "ms in all", "samples per second"),
    "training step": ("batch", "ms per step", "frames per second"),
    "dynamics": ("replicas", "ms per run", "replica-steps per second"),
}


def device_tables(content: dict[str, Any]) -> list[Table]:
    """The results as tables: correctness, rates, then one for each section."""
    rows = [
        (
            row["what"],
            row["way"],
            row["precision"],
            f"{row['difference']:.2g}",
            f"{row['limit']:.2g}",
            "yes" if row["holds"] else "NO",
        )
        for row in content["correctness"]
    ]
    tables = [Table("Against float64 on the CPU", ("what", "way", "precision", "difference", "limit", "holds"), rows)]
    rates = [(name, f"{value:,.3g}" if value > 1e6 else str(value)) for name, value in content["roofline"].items()]
    tables.append(Table("Rates of this device", ("what", "measured"), rates))
    for section, (size, duration, rate) in COLUMNS.items():
        found = [row for row in content["figures"] if row["section"] == section]
        if found:
            columns = ("what", "way", "precision", size, duration, rate, "floor, ms", "times the floor", "memory, MiB")
            tables.append(Table(section.capitalize(), columns, [_row(row) for row in found]))
    if content["left_out"]:
        left_out = [(row["what"], row["why"]) for row in content["left_out"]]
        tables.append(Table("Left out", ("what", "why"), left_out))
    return tables


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    floor, memory = row.get("floor"), row.get("memory")
    return (
        row["what"],
        row["way"],
        row["precision"],
        f"{row['size']:,}",
        f"{1e3 * row['median']:.3g}",
        f"{row['per_second']:,.4g}" if row["per_second"] < 1e4 else f"{row['per_second']:,.0f}",
        "" if floor is None else f"{1e3 * floor:.2g} ({row['bound']})",
        "" if floor is None else f"{row['median'] / floor:,.3g}",
        "" if memory is None else f"{memory / 2**20:,.0f}",
    )
