"""Fine-tuning as a part of the jobs: a plan and its weights go in, learned ones come out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.errors import DataError
from tvm_mpq.execute.accuracy import check_labels, classifies
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.options import require_torch
from tvm_mpq.report.contract import FinetuneReport
from tvm_mpq.schema import Plan


class Finetuner:
    """Trains plans of one network on its data, `options.finetune_epochs` long; equal plans once. The state is on disk.

    Called with a plan it gives that plan's weights: for a learned plan those that were learned, else those of
    `codes_of`.

    Raises
    ------
    MissingDependencyError
        If PyTorch is needed and not installed: at once, not after an hour of measuring.
    DataError
        If there are no real data to learn from, or labels that the network has no classes for.
    """

    def __init__(self, context: RunContext, data: Dataset, codes_of: Callable[[Plan], WeightCodes]) -> None:
        self._context, self._data, self._codes_of = context, data, codes_of
        self._learned: dict[str, WeightCodes] = {}
        self._results: dict[str, tuple[Plan, FinetuneReport]] = {}
        if context.options.finetune_epochs:
            require_torch()
            if data.synthetic:
                raise DataError("fine-tuning needs data of the network's own kind; give them with --data")
            require_batch_axes(data, "fine-tuning")
            check_labels(data.labels, classifies=classifies(context.prepared.graph))

    def __call__(self, plan: Plan) -> WeightCodes:
        learned = self._learned.get(_name(plan))
        return self._codes_of(plan) if learned is None else learned

    def tuned(self, plan: Plan) -> tuple[Plan, FinetuneReport | None]:
        """The learned plan and how that went; the plan itself where nothing was asked for, or all of it is float."""
        floats = all(plan.precision(operator).is_float for operator in plan.operators)
        if not self._context.options.finetune_epochs or floats:
            return plan, None
        name = _name(plan)
        if name not in self._results:
            self._results[name] = self._tune(plan)
        learned, report = self._results[name]
        return dataclasses.replace(learned, info=plan.info, kernels=plan.kernels), report

    def kept_aside(self) -> Dataset:
        """The samples that nothing is learned from: whole runs of them."""
        from tvm_mpq.training.course import split
        from tvm_mpq.training.settings import FinetuneSettings

        data = self._data
        rows = split(len(next(iter(data.arrays.values()))), FinetuneSettings())[1].numpy()
        rows = rows[: max(data.batch, len(rows) // data.batch * data.batch)]
        arrays = {name: x[rows] for name, x in data.arrays.items()}
        return dataclasses.replace(data, arrays=arrays, labels=None if data.labels is None else data.labels[rows])

    def _tune(self, plan: Plan) -> tuple[Plan, FinetuneReport]:
        from tvm_mpq.training.finetune import finetune
        from tvm_mpq.training.settings import FinetuneSettings

        prepared, options = self._context.prepared, self._context.options
        settings = FinetuneSettings(epochs=options.finetune_epochs)
        codes = self(plan)
        data = dataclasses.replace(self._data, arrays=prepared.by_tensor(self._data.arrays))
        parts = _name(plan), prepared.loaded.fingerprint, data.fingerprint, codes.digest, settings
        folder = Path(f"{self._context.db.store.path}.finetune")
        folder.mkdir(parents=True, exist_ok=True)
        found = finetune(
            prepared.graph,
            plan,
            prepared.features,
            data,
            settings,
            codes=codes,
            checkpoint=folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.pt",
            progress=options.progress,
            say=options.tell,
        )
        self._learned[_name(found.plan)] = found.codes
        before, kept = found.epochs[0], found.epochs[found.kept]
        return found.plan, {
            "epochs": settings.epochs,
            "kept": found.kept,
            "held": kept.held,
            "hits": {"fp32": found.teacher_hits, "before": before.hits, "after": kept.hits},
            "loss": {"before": before.held_loss, "after": kept.held_loss},
            "seconds_per_epoch": found.seconds_per_epoch,
        }


def tuned_build(context: RunContext, plan: Plan, codes: WeightCodes) -> tuple[Plan, WeightCodes, FinetuneReport | None]:
    """A plan that is built without a search, after learning where `options.finetune_epochs` says so."""
    if not context.options.finetune_epochs:
        return plan, codes, None
    tuner = Finetuner(context, context.data, lambda plan: codes)
    learned, report = tuner.tuned(plan)
    return learned, tuner(learned), report


def require_batch_axes(data: Dataset, what: str) -> None:
    """Raises DataError when `what` needs them and an input has none."""
    if data.whole:
        raise DataError(f"{what} needs a batch axis in every input (input {min(data.whole)!r} has none)")


def _name(plan: Plan) -> str:
    return repr((sorted(plan.operators.items()), sorted(plan.formats.items()), sorted(plan.tensors.items())))
