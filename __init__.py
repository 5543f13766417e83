"""Normalizing flows as smooth molecular potentials and samplers."""
