"""Files of compiled functions, and the machine and library that they need."""

from __future__ import annotations

import hashlib
import json
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import CompilationError, FileFormatError
from ..core.files import parse_json
from ..core.potential import Potential
from ..runs.provenance import processor

FORMAT = "smoothflow-compiled"
SCHEMA = 1
HEADER = "smoothflow.json"
MAX_HEADER_BYTES = 2**20


def machine(device: str = "cpu") -> dict[str, Any]:
    """What compiled code depends on: the versions of torch and operating system, and what the processor can do; for a
    GPU, what that can do, too."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": sorted(processor("flags", "Features").split()),
    }
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "gpu": list(torch.cuda.get_device_capability())}
    return found


def fingerprint(potential: Potential) -> str:
    """A digest of a potential's weights and constants, the same in float32 and float64."""
    digest = hashlib.sha256(type(potential).__qualname__.encode())
    tensors = {**dict(potential.named_parameters()), **dict(potential.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def write_header(content: Mapping[str, Any]) -> str:
    """The header of a package, as it goes into the file."""
    made_for = machine(content.get("device", "cpu"))
    return json.dumps({"format": FORMAT, "schema": SCHEMA, "machine": made_for, **content})


def read_package(path: str | Path) -> tuple[dict[str, Any], bytes]:
    """Header and content of a package that this machine can run; nothing in it is run yet.

    Raises:
        FileFormatError: If the file is missing, damaged or not a package.
        CompilationError: If it was made for another version of torch or another machine.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if Path(entry.filename).name == HEADER]
            # nothing in a package is compressed: a small file cannot unpack to a large one
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            # nor do its parts share their bytes, or go elsewhere when they are unpacked
            plain = plain and sum(entry.file_size for entry in archive.infolist()) <= len(content)
            plain = plain and all(map(_stays_inside, archive.namelist()))
            if len(members) != 1 or members[0].file_size > MAX_HEADER_BYTES or not plain:
                raise FileFormatError(f'"{path}" is not a package written by "smoothflow compile".')
            broken = archive.testzip()
            header = parse_json(archive.read(members[0]))
    except FileNotFoundError as error:
        raise FileFormatError(
            f'There is no file "{path}". Give the path of a package written by "smoothflow compile".'
        ) from error
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be read: {error.strerror or error}.') from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(
            f'"{path}" is not a compiled package, or it is truncated: {error}. Compile again.'
        ) from error
    if broken is not None:
        raise FileFormatError(f'"{path}" is damaged at "{broken}". Compile again.')
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("schema") != SCHEMA:
        raise FileFormatError(f'"{path}" is not a compiled package of schema {SCHEMA}. Compile again.')
    require_machine(header.get("machine"), path, header.get("device", "cpu"))
    return header, content


def _stays_inside(name: str) -> bool:
    """Whether a part of an archive is unpacked below the folder that it is unpacked to, on any system."""
    return not name.startswith("/") and not {"..", ""} & set(name.removesuffix("/").split("/")) and "\\" not in name


def require_machine(needed: Any, path: Path, device: Any = "cpu") -> None:
    """Raise a `CompilationError` unless code made for one machine, and a kind of device, runs on this one."""
    if device not in ("cpu", "cuda"):
        raise CompilationError(f'"{path}" was compiled for a device "{device}", which is not known. Compile it again.')
    if device == "cuda" and not torch.cuda.is_available():
        raise CompilationError(
            f'"{path}" was compiled for a GPU, and torch finds none here. Compile the model again for the CPU '
            "(smoothflow compile MODEL --device cpu), or use the model itself."
        )
    here = machine(device)
    needed = needed if isinstance(needed, dict) else {}
    for name in [name for name in here if name != "cpu_flags"]:
        if needed.get(name) != here[name]:
            raise CompilationError(
                f'"{path}" was compiled for {name.replace("_", " ")} {needed.get(name)}, and this is {here[name]}. '
                "Compile the model again here."
            )
    missing = sorted(set(needed.get("cpu_flags", [])) - set(here["cpu_flags"]))
    if missing:
        raise CompilationError(
            f'"{path}" was compiled for a processor with {", ".join(missing[:5])}, which this one lacks. '
            "Compile the model again here."
        )
