"""What all tests share: a seeded generator, the `isa` marker and the option `--isa-limit`."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tvm_mpq.targets import cpuinfo, local_architecture
from tvm_mpq.targets.isa_limit import ISA_LIMIT
from tvm_mpq.targets.rows import BY_NAME

LIMITS = [name for name, row in BY_NAME.items() if cpuinfo.architecture(row.mtriple or "") == local_architecture()]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--isa-limit",
        choices=LIMITS,
        metavar="TARGET",
        help="run as if this CPU had no ISA features but those of this target row (see CONTRIBUTING.md); "
        f"one of {', '.join(LIMITS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is imported, and inherited by every process that a test starts."""
    if limit := config.getoption("isa_limit"):
        os.environ[ISA_LIMIT] = limit


def pytest_report_header() -> str:
    return f"ISA limit: {os.environ.get(ISA_LIMIT) or 'none, all features of this CPU'}"


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run, whatever the order of the tests."""
    return np.random.default_rng(20240)


@pytest.fixture(autouse=True)
def no_width_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as wide as a pipe's, whatever the terminal, or pytest-xdist, says of its own."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = {feature for mark in item.iter_markers("isa") for feature in mark.args}
    if not wanted:
        return
    from tvm_mpq.targets import features, local_row  # needs TVM; only marked tests pay for it

    missing = sorted(wanted - features(local_row()))
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
