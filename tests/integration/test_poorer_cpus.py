"""What poorer CPUs do is tested on richer ones too: the decisive tests once more, as if this CPU were a poorer one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mpq.targets import features, local_architecture, local_row, resolve

ROOT = Path(__file__).parents[2]
LIMITS = ("x86-64", "x86-avx2", "cascadelake")
"""No feature that kernels choose by, AVX2 only, AVX-512 VNNI without VBMI."""

DECISIVE = (
    "tests/integration/test_exactness.py::test_all_weight_bits_in_one_network[1]",
    "tests/integration/test_optimize.py::test_other_graphs_go_all_the_way[two_outputs]",
    "tests/unit/targets/test_detect.py::test_llvm_compiles_with_exactly_the_features_this_cpu_has",
)
"""Every weight bit exact from end to end; measuring, choosing among what is offered, building; what LLVM is told."""


@pytest.mark.slow
@pytest.mark.skipif(local_architecture() != "x86_64", reason="the limits are x86 rows")
@pytest.mark.parametrize("limit", LIMITS)
def test_the_decisive_tests_pass_on_a_poorer_cpu(limit: str) -> None:
    if features(local_row()) <= features(resolve(limit)):
        pytest.skip(f"this CPU offers no more than {limit}: the whole suite is of such a CPU")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--isa-limit", limit, *DECISIVE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ISA limit: {limit}" in done.stdout
    assert f"{len(DECISIVE)} passed" in done.stdout and "skipped" not in done.stdout
