"""Integrators of the equations of motion, and the simulation that drives them."""
