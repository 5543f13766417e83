"""Frames of a molecule in closed form."""

from closed_forms import force_field, gaussian, peroxide_frames  # noqa: F401
