"""Flows and objectives trained at one budget, measured alike and put into tables."""
