"""Frames, losses and the training loop."""
