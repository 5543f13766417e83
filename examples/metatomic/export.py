"""``python export.py model.safetensors model.pt`` writes a model for engines that run metatomic models."""

from __future__ import annotations

import sys

import torch
from smoothflow import load, to_metatomic

model = load(sys.argv[1])
with torch.no_grad():
    positions, _ = model.sample(10, seed=0)
to_metatomic(model, sys.argv[2], positions)
