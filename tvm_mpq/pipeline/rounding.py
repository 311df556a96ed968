"""The integers of each plan's weights: rounded once on calibration data, and kept on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.float_side import FloatSide
from tvm_mpq.calibrate.rounding import NEAREST, float_side, round_plan
from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.schema import Plan

VERSION = 3
"""Part of every stored name: raise it when rounding changes."""


class Rounder:
    """Gives a plan its weights' integers, as `options.rounding` says. Synthetic data say nothing: then to nearest."""

    def __init__(self, context: RunContext, data: Dataset) -> None:
        self._context = context
        self.method = NEAREST if data.synthetic else context.options.rounding
        self._data = data.head(context.options.rounding_samples)
        self._folder = Path(f"{context.db.store.path}.codes")
        self._known: dict[str, WeightCodes] = {}
        self._wide: FloatSide | None = None

    def __call__(self, plan: Plan) -> WeightCodes:
        """The plan's codes; equal plans are rounded once. Integers that the file brought stay as they are."""
        own = self._context.prepared.own.codes_of(plan.operators)
        rounded = {name for name in plan.operators if not plan.precision(name).is_float} - {name for name, _ in own}
        if self.method == NEAREST or not rounded:
            return own
        name = self._name(plan)
        if name not in self._known:
            self._known[name] = self._stored(self._folder / f"{name}.npz") or self._rounded(plan, name)
        return WeightCodes({**self._known[name], **own})

    def _rounded(self, plan: Plan, name: str) -> WeightCodes:
        context = self._context
        prepared = context.prepared
        if self._wide is None:
            samples = learn.graph_samples(prepared, self._data)
            self._wide = float_side(prepared.graph, plan, prepared.features, samples)
        wide = self._wide
        codes = context.interpret(
            lambda run: round_plan(
                prepared.graph,
                run,
                plan,
                prepared.features,
                wide,
                kernels=lambda steps: emulated_on_int8(steps, context.store),
                progress=context.options.progress,
            )
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{name}.{os.getpid()}.part"
        codes.save(partial)
        partial.replace(self._folder / f"{name}.npz")  # a kill leaves no half a file under the name
        return codes

    @staticmethod
    def _stored(path: Path) -> WeightCodes | None:
        try:
            return WeightCodes.load(path)
        except (MissingFileError, FileFormatError):  # a damaged one is made again
            return None

    def _name(self, plan: Plan) -> str:
        parts = (
            VERSION,
            self.method,
            self._context.prepared.loaded.fingerprint,
            self._data.fingerprint,
            sorted(plan.operators.items()),
            sorted(plan.formats.items()),
            sorted(plan.tensors.items()),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
