"""A plan and its weights' integers on disk: both come back, and files that do not belong together are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.numerics.saved_plan import load_plan, save_plan
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.schema import Plan, TensorQuant

PLAN = Plan("t", {}, {"a": "w4a8", "b": "fp32", "c": "w2a4"}, {"x": [TensorQuant(8, 0.1, 3)]}, info={"threads": 1})


def weight(bits: int) -> QuantizedWeight:
    return QuantizedWeight(np.ones((2, 1, 1, 3), np.int8), np.ones(2, np.float32), bits, np.zeros(2, np.float32))


CODES = WeightCodes({(name, bits): weight(bits) for name in "abcd" for bits in (2, 4, 8)})


def test_what_the_plan_uses_comes_back(tmp_path: Path) -> None:
    written = save_plan(PLAN, CODES, tmp_path)
    for path in (tmp_path, str(tmp_path), tmp_path / "plan.json"):
        plan, codes = load_plan(path)
        assert plan == written and set(codes) == {("a", 4), ("c", 2)}
        assert codes["a", 4].digest == CODES["a", 4].digest


def test_a_plan_rounded_to_nearest_has_no_second_file(tmp_path: Path) -> None:
    save_plan(PLAN, CODES, tmp_path)
    (tmp_path / "codes.npz").unlink()
    plan = save_plan(load_plan_alone(tmp_path), None, tmp_path)
    assert not (tmp_path / "codes.npz").exists()
    assert load_plan(tmp_path) == (plan, WeightCodes()) and plan == PLAN


def load_plan_alone(folder: Path) -> Plan:
    return Plan.load(folder / "plan.json")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    save_plan(PLAN, CODES, tmp_path)
    WeightCodes({("a", 4): weight(4)}).save(tmp_path / "codes.npz")
    with pytest.raises(FileFormatError, match="does not belong to"):
        load_plan(tmp_path)
    (tmp_path / "codes.npz").unlink()
    with pytest.raises(MissingFileError, match="no weight codes"):
        load_plan(tmp_path)
