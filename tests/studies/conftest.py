"""A molecule in closed form."""

from closed_forms import force_field, peroxide_frames  # noqa: F401
