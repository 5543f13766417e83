"""Frames out of potentials: simulation, draws from flows, dynamics and its reporters."""
