"""Shipped structures and their conformations."""

from conformations import alanine, molecule  # noqa: F401
