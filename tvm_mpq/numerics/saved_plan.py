"""A plan on disk: plan.json for people and programs, and beside it the weights' integers where rounding chose them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tvm_mpq.errors import FileFormatError
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.schema import Plan

PLAN_FILE, CODES_FILE = "plan.json", "codes.npz"

DIGEST = "weight_codes"
"""Key in `Plan.info` under which stands the digest of the codes that belong to the plan."""


def codes_in_use(plan: Plan, codes: WeightCodes) -> WeightCodes:
    """Those that the plan's precisions ask for."""
    return WeightCodes({key: w for key, w in codes.items() if _used(plan, *key)})


def save_plan(plan: Plan, codes: WeightCodes | None, folder: str | Path) -> Plan:
    """Write plan.json, and codes.npz where the plan uses any; returns the plan as written. Raises OutputError."""
    used = codes_in_use(plan, codes or WeightCodes())
    info = {key: value for key, value in plan.info.items() if key != DIGEST}
    if used:
        used.save(Path(folder) / CODES_FILE)
        info[DIGEST] = used.digest
    written = dataclasses.replace(plan, info=info)
    written.save(Path(folder) / PLAN_FILE)
    return written


def load_plan(path: str | Path) -> tuple[Plan, WeightCodes]:
    """The plan at `path`, a folder or a plan file, and its weights' integers; none when it was rounded to nearest.

    Raises
    ------
    MissingFileError, FileFormatError
        As `Plan.load` and `WeightCodes.load` do, and when the codes are not those that the plan was saved with.
    """
    file = Path(path)
    file = file / PLAN_FILE if file.is_dir() else file
    plan = Plan.load(file)
    digest = plan.info.get(DIGEST)
    if digest is None:
        return plan, WeightCodes()
    codes = WeightCodes.load(file.parent / CODES_FILE)
    if codes.digest != digest:
        raise FileFormatError(
            f"{str(file.parent / CODES_FILE)!r} does not belong to {str(file)!r}; keep both files of one build together"
        )
    return plan, codes


def _used(plan: Plan, operator: str, bits: int) -> bool:
    if operator not in plan.operators:
        return False
    precision = plan.precision(operator)
    return not precision.is_float and precision.weight_bits == bits
