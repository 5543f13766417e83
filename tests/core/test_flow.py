"""The base distribution of flows."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.flow import Base
from smoothflow.core.manifolds import UNIT_MANIFOLDS, Product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_of_an_interval_are_never_its_ends(dtype: torch.dtype) -> None:
    """Of 2^24 numbers in float32 one is expected to be 0, and with this seed it is."""
    interval = UNIT_MANIFOLDS["interval"]
    base = Base(Product.of(interval, [f"x{i}" for i in range(64)]))
    n = 2**18
    raw = torch.rand((n, 64), generator=torch.Generator().manual_seed(1), dtype=dtype)
    z = base.sample(n, torch.Generator().manual_seed(1), dtype)
    assert float(z.min()) > 0
    assert float(z.max()) < 1
    if dtype == torch.float32:
        assert float(raw.min()) == 0
    torch.testing.assert_close(z, raw, rtol=0, atol=torch.finfo(dtype).eps / 4)
