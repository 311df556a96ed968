"""Annotate: candidates written on a new module, everything else as it was."""

from __future__ import annotations

import pytest
import tvm

from mpq_testing.networks import residual_network
from tvm_mpq.errors import UnknownTargetError
from tvm_mpq.kernels import candidate_precisions
from tvm_mpq.passes import Annotate, Normalize
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.targets import features, local_row


def candidates(mod: tvm.IRModule) -> dict[str, tuple[str, ...]]:
    return {n.name: n.candidates for n in read_graph(mod).nodes}


def test_every_weighted_operator_knows_its_candidates() -> None:
    found = candidates(Annotate()(residual_network()))
    nodes = {n.name: n for n in read_graph(residual_network()).weighted()}
    for name, node in nodes.items():
        assert list(found[name]) == [str(p) for p in candidate_precisions(node.conv, features(local_row()), 1)]
        assert {"fp32", "w8a8"} <= set(found[name])
    assert {name for name, texts in found.items() if texts} == set(nodes)


def test_input_is_unchanged() -> None:
    mod = residual_network()
    before = mod.script()
    Annotate()(mod)
    assert mod.script() == before
    tvm.ir.assert_structural_equal(mod, residual_network())


def test_second_run_changes_nothing() -> None:
    once = Annotate()(residual_network())
    tvm.ir.assert_structural_equal(Annotate()(once), once)


def test_only_the_attribute_is_new() -> None:
    before, after = residual_network(), Annotate()(residual_network())
    tvm.ir.assert_structural_equal(after["main"], before["main"], map_free_vars=True)
    stripped = tvm.IRModule({var: f.without_attr("mpq.candidates") for var, f in after.functions_items()})
    tvm.ir.assert_structural_equal(stripped, before)


def test_normal_form_is_left_alone_by_normalize() -> None:
    mod = residual_network()
    tvm.ir.assert_structural_equal(Normalize()(mod), mod)


def test_another_target_has_other_candidates() -> None:
    """Convolutions on a core without any integer dot product still have the float kernel."""
    found = candidates(Annotate(target="cortex-a72")(residual_network()))
    assert all("fp32" in texts for name, texts in found.items() if name in ("stem", "fc"))


def test_unknown_target() -> None:
    with pytest.raises(UnknownTargetError, match="cortex-b72"):
        Annotate(target="cortex-b72")
