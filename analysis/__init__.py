"""Reweighting, energy conservation, and the report."""
