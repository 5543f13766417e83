"""``smoothflow plugins``: installed plug-ins, and broken ones."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from .completion import keep_names
from .console import note, print_json, print_table


def run(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List transforms, providers, integrators, engines, file loaders and models, and which distribution supplies each.

    Example: smoothflow plugins
    """
    from ..core.plugins import registry

    found = registry()
    keep_names()
    rows = []
    for entry in sorted(found.entries.values(), key=lambda entry: (entry.kind, entry.name)):
        smoothness = getattr(entry.value, "smoothness", None) if entry.kind == "transform" else None
        manifolds = getattr(entry.value, "manifolds", ()) if entry.kind == "transform" else ()
        rows.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": entry.distribution,
                "version": entry.version,
                "smoothness": "C-infinity" if smoothness == math.inf else f"C{smoothness}" if smoothness else "",
                "manifolds": ", ".join(sorted(manifold.__name__.lower() for manifold in manifolds)),
            }
        )
    broken = [
        {"plugin": plugin.plugin, "distribution": plugin.distribution, "version": plugin.version, "error": plugin.error}
        for plugin in found.broken
    ]
    conflicts = sorted(found.conflicts.values())
    if as_json:
        print_json({"plugins": rows, "broken": broken, "conflicts": conflicts})
        return
    columns = ["kind", "name", "distribution", "version", "smoothness", "manifolds"]
    print_table("Plug-ins", columns, [[row[column] for column in columns] for row in rows])
    for plugin in broken:
        note(f"broken: {plugin['plugin']} of {plugin['distribution']} {plugin['version']}: {plugin['error']}")
    for conflict in conflicts:
        note(f"conflict: {conflict}")
