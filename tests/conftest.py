"""What all tests need."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that; tests of Ctrl-C need it to arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite on all cores, and what was asked for by name in this process, which starts sooner."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and config.getoption("numprocesses", 0) is None:
        config.option.numprocesses = "auto"
        # neighbours stay together, for the sake of what a module's tests share, until a worker has nothing left
        config.option.dist = "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
