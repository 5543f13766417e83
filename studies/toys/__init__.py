"""Flows on targets whose density is known."""
