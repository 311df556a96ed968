"""The `isa` marker of tests/conftest.py skips, and only then. One skip here is the expected result."""

from __future__ import annotations

import pytest


@pytest.mark.isa("a-feature-that-no-cpu-has")
def test_a_missing_feature_skips() -> None:
    pytest.fail("the marker did not skip this test")


@pytest.mark.isa
def test_no_feature_asks_nothing(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("isa") is not None
