"""Concrete potentials."""
