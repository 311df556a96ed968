"""What all tests share: a seeded generator and the `isa` marker."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run, whatever the order of the tests."""
    return np.random.default_rng(20240)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = {feature for mark in item.iter_markers("isa") for feature in mark.args}
    if not wanted:
        return
    from tvm_mpq.targets import features, local_row  # needs TVM; only marked tests pay for it

    missing = sorted(wanted - features(local_row()))
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
