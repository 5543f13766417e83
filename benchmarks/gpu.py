"""What a GPU makes of a flow, in minutes: right numbers, speeds beside their floors, memory.

    python gpu.py --minutes 8 --out gpu.json

Needs torch and the installed package with OpenMM and h5py (pip install 'smoothflow[openmm]'), and nothing of a clone;
what cannot be measured without a package is left out, and said. ``--device cpu --minutes 2`` does the same, smaller.
The file is replaced after every figure, so that a run that is killed leaves those that it had.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from smoothflow.core.errors import SmoothflowError
from smoothflow.studies.device_benchmark import MODEL, measure_device
from smoothflow.studies.device_report import describe_run, device_tables


def main() -> int:
    """Measure, and print the tables; the exit code is 1 if numbers on the device are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where torch computes")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long it may take")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", default=MODEL, help="a flow of capped alanine")
    options = parser.parse_args()
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        print(f"The device {options.device} cannot be used here: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    try:
        found = measure_device(device, 60 * options.minutes, options.out, options.model)
    except SmoothflowError as error:
        print(error, file=sys.stderr)
        return 2
    print(describe_run(found))
    for table in device_tables(found):
        print(f"\n{table.title}")
        for row in (table.columns, *table.rows):
            print("  ".join(f"{cell:<24}" if i == 0 else f"{cell:>12}" for i, cell in enumerate(row)))
    return 0 if all(row["holds"] for row in found["correctness"]) else 1


if __name__ == "__main__":
    sys.exit(main())
