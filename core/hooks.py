"""The mark of a hook, without torch, for folders that other programs look into while they start."""

from __future__ import annotations

import pluggy

GROUP = "smoothflow"
"""The entry-point group of plug-ins, and the name of the hooks' project."""

hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks the functions of a plug-in that implement a hook of `Hooks`."""
