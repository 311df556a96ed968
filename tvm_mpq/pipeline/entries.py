"""What methods found in a comparison, kept in the database: the same command begun again goes on where it ended."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.select.contest import OBJECTIVE, Found
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.search import TracePoint
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.tuning.database.results import ResultStore

VERSION = 1
"""Part of every stored key: raise it when a method finds other plans by equal settings."""

_KIND = "search"


class EntryStore:
    """Implements `Recall` for one problem. Equal problems, limits, data and settings are searched once."""

    def __init__(self, context: RunContext, problem: Problem) -> None:
        options = context.options
        settings = (
            *(options.seed, options.evaluations, options.method_seconds, options.solver_time_limit_sec),
            *(options.pin_ends, options.cut, options.free_bits, options.regulariser),
        )
        parts = (VERSION, context.prepared.loaded.fingerprint, context.data.fingerprint, problem, settings)
        self._problem, self._store = problem, ResultStore(context.db)
        self._key = hashlib.sha256(repr(parts).encode()).hexdigest()

    def __call__(self, method: str, limits: Limits, search: Callable[[], Found]) -> Found:
        key = hashlib.sha256(f"{self._key} {method} {limits!r}".encode()).hexdigest()
        row = self._store.get(_KIND, key)
        if row is not None:
            return self._found(method, row)
        found = search()
        self._store.put(_KIND, key, _row(found))
        return found

    def _found(self, method: str, row: Mapping[str, Any]) -> Found:
        told = row["solution"]
        solution = None
        if told is not None:
            cost = price(self._problem, told["choices"], told["formats"])
            rest = {name: told[name] for name in _TOLD}
            solution = Solution.priced(told["choices"], told["formats"], cost, OBJECTIVE, **rest)
        trace = tuple(
            TracePoint(int(point[0]), *(math.inf if x is None else float(x) for x in point[1:]))
            for point in row["trace"]
        )
        return Found(method, row["share"], solution, row["reason"], None, None, row["seconds"], trace)


_TOLD = ("bound", "status", "seconds", "solver", "evaluations")
"""Of a solution, beside its assignment: whatever its price does not say."""


def _row(found: Found) -> dict[str, Any]:
    solution = found.solution
    told = None
    if solution is not None:
        told = {name: getattr(solution, name) for name in ("choices", "formats", *_TOLD)}
    trace = [[x if math.isfinite(x) else None for x in dataclasses.astuple(point)] for point in found.trace]
    return {
        "share": found.share,
        "reason": found.reason,
        "seconds": found.seconds,
        "solution": told,
        "trace": trace,
    }
