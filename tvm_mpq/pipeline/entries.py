"""What methods found, kept in the database: the same command begun again goes on where it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.select.contest import Found
from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.methods.effort import TracePoint
from tvm_mpq.select.methods.haq import Haq
from tvm_mpq.select.methods.learned_bits import LearnedBits
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import Searcher
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
        self._learned = {Haq.name: options.walks, LearnedBits.name: options.updates}
        self._key = hashlib.sha256(repr(parts).encode()).hexdigest()

    def __call__(self, method: str, limits: Limits, search: Callable[[], Found]) -> Found:
        return self.known(f"{method} {limits!r}", method, search)

    def known(self, what: str, method: str, search: Callable[[], Found]) -> Found:
        """What is known of a search, told by a text that says all about it, or what it finds now."""
        length = self._learned.get(method)
        text = what if length is None else f"{what} {length}"
        key = hashlib.sha256(f"{self._key} {text}".encode()).hexdigest()
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
            solution = Solution.priced(told["choices"], told["formats"], cost, told["goal"], **rest)
        trace = tuple(TracePoint.of(point) for point in row["trace"])
        return Found(method, row["share"], solution, row["reason"], None, None, row["seconds"], trace)


class RememberingSearcher:
    """Implements `Searcher` by another one, whose answers to `best` are kept. Only for the store's problem."""

    def __init__(self, store: EntryStore, method: str, searcher: Searcher) -> None:
        self._store, self._method, self._searcher = store, method, searcher

    def best(self, problem: Problem, limits: Limits, objective: str, then: Sequence[str] | None = None) -> Solution:
        def search() -> Found:
            try:
                solution, reason = self._searcher.best(problem, limits, objective, then), ""
            except InfeasibleError as e:
                solution, reason = None, str(e)
            return Found(self._method, 1.0, solution, reason, None, None, 0.0)

        found = self._store.known(f"{self._method} {limits!r} {objective} {then!r}", self._method, search)
        if found.solution is None:
            raise InfeasibleError(found.reason)
        return found.solution

    def several(
        self, problem: Problem, limits: Limits, count: int, objective: str, among: Collection[str]
    ) -> list[Solution]:
        return self._searcher.several(problem, limits, count, objective, among)


_TOLD = ("bound", "status", "seconds", "solver", "evaluations")
"""Of a solution, beside its assignment: whatever its price does not say."""


def _row(found: Found) -> dict[str, Any]:
    solution = found.solution
    told = None
    if solution is not None:
        told = {name: getattr(solution, name) for name in ("choices", "formats", "goal", *_TOLD)}
    return {
        "share": found.share,
        "reason": found.reason,
        "seconds": found.seconds,
        "solution": told,
        "trace": [point.row() for point in found.trace],
    }
