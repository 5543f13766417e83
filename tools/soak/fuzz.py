"""Fuzz the readers of models, frames and configurations: every input is read, or refused with one of our errors.

    python tools/soak/fuzz.py 1000000 --json docs/reliability/fuzz.json

Inputs are seeded: each is made of a small good file by its number alone, with bytes flipped, cut, repeated and
exchanged, and with fields of the JSON header, of the HDF5 metadata (checksums mended) and of the YAML replaced. They
are opened in workers, so that a crash of a library is seen and counted, with 512 MiB beside what the imports take.
Counted are other exceptions, crashes, inputs that take longer than a second, and those that need more memory; all are
kept in a folder.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz_inputs import KINDS, Kind
from record import keep
from smoothflow.core.errors import SmoothflowError

BATCH = 5_000
"""Inputs for one worker."""

SPARE_BYTES = 2**29
"""Memory beside what the imports take."""

SLOW_SECONDS = 1.0
"""Of CPU time, for one input."""

HANG_SECONDS = 120.0
"""Of time at all, after which a worker is killed."""

READ, REFUSED = "read", "refused"


def input_of(kind: Kind, number: int) -> bytes:
    """The input of that number."""
    return kind.mutate(Random(f"{kind.name} {number}"))


def outcome(open_file: Callable[[Path], object], path: Path) -> str:
    """How the opening of a file ended: `READ`, `REFUSED`, or what went wrong."""
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        open_file(path)
        ended = READ
    except SmoothflowError:
        ended = REFUSED
    except Exception as error:
        return type(error).__name__
    if time.process_time() - began > SLOW_SECONDS:
        return "slow"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return "memory" if grown > SPARE_BYTES // 2 else ended


def work(kind: Kind, start: int, stop: int, folder: Path) -> None:
    """Open a batch of inputs, and print what came of each."""
    warnings.simplefilter("ignore")
    path = folder / f"input{kind.suffix}"
    path.write_bytes(kind.seed)
    kind.open(path)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE_BYTES, in_use + SPARE_BYTES))
    for number in range(start, stop):
        path.write_bytes(input_of(kind, number))
        print(outcome(kind.open, path), flush=True)


def run_batch(kind: Kind, start: int, stop: int, folder: Path) -> list[str]:
    """What came of each input of a batch; where a worker dies, a new one goes on behind the input."""
    ended: list[str] = []
    answers = folder / "answers"
    while start + len(ended) < stop:
        command = [sys.executable, __file__, "--worker", kind.name, str(start + len(ended)), str(stop), str(folder)]
        with answers.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL) as process:
            size, since = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.05)
                if answers.stat().st_size > size:
                    size, since = answers.stat().st_size, time.monotonic()
                elif time.monotonic() - since > HANG_SECONDS:
                    process.kill()
        ended += answers.read_text().split()
        if process.returncode:
            ended.append("hang" if process.returncode == -signal.SIGKILL else f"crash{process.returncode}")
    return ended


def main(n_inputs: int, kept: Path, json_path: Path | None) -> int:
    began = time.monotonic()
    figures: dict[str, object] = {"inputs": 0}
    n_wrong = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        for kind in KINDS.values():
            stop = round(n_inputs * kind.share)
            counts: Counter[str] = Counter()
            for start in range(0, stop, BATCH):
                found = run_batch(kind, start, min(start + BATCH, stop), Path(name))
                counts.update(found)
                for number, ended in enumerate(found, start):
                    if ended not in (READ, REFUSED):
                        kept.mkdir(parents=True, exist_ok=True)
                        (kept / f"{kind.name}-{number}-{ended}{kind.suffix}").write_bytes(input_of(kind, number))
                print(f"{kind.name}: {sum(counts.values())} of {stop}: {dict(counts)}", flush=True)
            figures["inputs"] = sum(counts.values()) + int(str(figures["inputs"]))
            figures[f"{kind.name}: read"] = counts.pop(READ, 0)
            figures[f"{kind.name}: refused with one error of ours"] = counts.pop(REFUSED, 0)
            n_wrong += sum(counts.values())
            figures |= {f"{kind.name}: {ended}": n for ended, n in sorted(counts.items())}
    figures["crashes, hangs, other exceptions, more than a second or 256 MiB"] = n_wrong
    keep(json_path, "Fuzzed models, frames and configurations", figures, began)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, name, first, end, where = sys.argv
        work(KINDS[name], int(first), int(end), Path(where))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=int, help="how many, of all kinds together")
    parser.add_argument("--kept", type=Path, default=Path("fuzzed"), help="folder for inputs that went wrong")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    sys.exit(main(options.inputs, options.kept, options.json))
