"""Time-lagged components of processes whose timescales are known."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from smoothflow.analysis.time_lagged import time_lagged_components
from smoothflow.core.errors import ConfigurationError

MIXED = np.array([[1.0, 0.3], [2.0, -0.2], [-0.5, 1.0]])


def ornstein_uhlenbeck(timescales: tuple[float, ...], n: int) -> np.ndarray:
    """Independent processes of variance one in steps of one unit of time, exact."""
    noise = np.random.default_rng(0)
    decays = [math.exp(-1 / timescale) for timescale in timescales]
    return np.stack([lfilter([math.sqrt(1 - a**2)], [1, -a], noise.normal(size=n)) for a in decays], 1)


def test_a_linear_process_has_its_timescales_and_its_directions() -> None:
    hidden = ornstein_uhlenbeck((20.0, 4.0), 300_000)
    found = time_lagged_components(hidden @ MIXED.T + 3.0, lag=5)
    # three features with two directions
    assert found.directions.shape == (3, 2)
    # an autocorrelation e^(-tau/T) of n/2T independent values is known to 1 %, 0.5 %
    assert found.timescales(5.0) == pytest.approx([20.0, 4.0], rel=0.05)
    components = found(hidden @ MIXED.T + 3.0)
    np.testing.assert_allclose(np.cov(components.T), np.eye(2), atol=1e-3)  # of all frames, not of the pairs
    for k in range(2):
        assert abs(np.corrcoef(components[:, k], hidden[:, k])[0, 1]) > 0.999


def test_pairs_are_frames_of_one_walker() -> None:
    replica = np.repeat([4, 9], 3)
    features = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])[:, None]
    assert time_lagged_components(features, 1, replica).autocorrelations == pytest.approx([-1], abs=1e-12)
    # the two frames where one walker ends and the other begins are alike
    assert time_lagged_components(features, 1).autocorrelations[0] > -0.9


def test_walkers_of_any_length_without_the_short_ones() -> None:
    long = ornstein_uhlenbeck((10.0,), 1000)
    alone = time_lagged_components(long, 20)
    both = time_lagged_components(np.concatenate([long, 5 + long[:20]]), 20, np.repeat([0, 1], [1000, 20]))
    assert both.autocorrelations == pytest.approx(alone.autocorrelations, rel=1e-12)


@pytest.mark.parametrize(
    ("features", "lag", "words"),
    [
        (np.zeros((10, 2)), 1, "None of the features varies"),
        (np.arange(6.0)[:, None], 6, "No walker has more than 6 frames"),
        (np.arange(6.0)[:, None], 0, "at least one frame"),
    ],
)
def test_what_has_no_components_is_refused(features: np.ndarray, lag: int, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        time_lagged_components(features, lag)
