"""The integers of each plan's weights: rounded once on calibration data, and kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.rounding import ADAROUND, NEAREST, round_plan
from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.finetune import require_batch_axes
from tvm_mpq.pipeline.options import require_torch
from tvm_mpq.schema import Plan

VERSION = 6
"""Part of every stored name: raise it when rounding changes."""


class Rounder:
    """Gives a plan its weights' integers, as `options.rounding` says. Synthetic data say nothing: then to nearest.

    Raises
    ------
    MissingDependencyError
        If rounding is to be learned and PyTorch is not installed: at once.
    DataError
        If it is, and an input has no batch axis.
    """

    def __init__(self, context: RunContext, data: Dataset) -> None:
        self._context = context
        self.method = NEAREST if data.synthetic else context.options.rounding
        if self.method == ADAROUND:
            require_torch("rounding adaround")
            require_batch_axes(data, "rounding adaround")
        self._all, self._data = data, data.head(context.options.rounding_samples)
        self._folder = Path(f"{context.db.store.path}.codes")
        self._known: dict[str, WeightCodes] = {}

    def __call__(self, plan: Plan) -> WeightCodes:
        """The plan's codes; equal plans are rounded once. Integers that the file brought stay as they are."""
        own = self._context.prepared.own.codes_of(plan.operators)
        rounded = {name for name in plan.operators if not plan.precision(name).is_float} - {name for name, _ in own}
        if self.method == NEAREST or not rounded:
            return own
        name = self._name(plan)
        if name not in self._known:
            self._known[name] = self._stored(self._folder / f"{name}.npz") or self._made(plan, own, name)
        return WeightCodes({**self._known[name], **own})

    def _made(self, plan: Plan, own: WeightCodes, name: str) -> WeightCodes:
        self._folder.mkdir(parents=True, exist_ok=True)
        learns = self.method == ADAROUND
        codes = self._learned(plan, own, self._folder / f"{name}.pt") if learns else self._rounded(plan)
        partial = self._folder / f"{name}.{os.getpid()}.part"
        codes.save(partial)
        partial.replace(self._folder / f"{name}.npz")  # a kill leaves no half a file under the name
        return codes

    def _rounded(self, plan: Plan) -> WeightCodes:
        context = self._context
        prepared = context.prepared
        wide = context.learner.float_side(plan, self._data)
        return context.interpret(
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

    def _learned(self, plan: Plan, own: WeightCodes, state: Path) -> WeightCodes:
        """Block by block; `state` holds the blocks that are done until all are."""
        from tvm_mpq.training.reconstruction import Reconstructed, reconstruct
        from tvm_mpq.training.settings import ReconstructionSettings

        prepared, options, settings = self._context.prepared, self._context.options, ReconstructionSettings()
        data = self._all.head(max(1, settings.samples // self._all.batch))
        data = dataclasses.replace(data, arrays=prepared.by_tensor(data.arrays))
        found: list[Reconstructed] = []
        learned = reconstruct(
            prepared.graph,
            plan,
            prepared.features,
            data,
            settings,
            fixed=own,
            checkpoint=state,
            progress=options.progress,
            seen=found.append,
        )
        if found:
            shares = sorted(block.error for block in found)
            options.tell(
                f"rounding learned in {len(found)} blocks, whose errors are {shares[0]:.2f} to {shares[-1]:.2f} "
                f"(median {shares[len(shares) // 2]:.2f}) of what the closed form left"
            )
        state.unlink(missing_ok=True)
        return learned

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
            self._all.fingerprint if self.method == ADAROUND else None,
            sorted(plan.operators.items()),
            sorted(plan.formats.items()),
            sorted(plan.tensors.items()),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
