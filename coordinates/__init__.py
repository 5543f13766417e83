"""Cartesian to internal coordinates and back, and charts fitted to data."""
