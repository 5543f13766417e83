"""Flows and objectives trained with one budget, measured in the same way and tabulated."""
