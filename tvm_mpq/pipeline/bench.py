"""The work bench that all commands share: model, database, compiled kernels, and the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_mpq import targets
from tvm_mpq.calibrate.interpreter import Interpreter
from tvm_mpq.errors import TargetMismatchError
from tvm_mpq.pipeline import latency
from tvm_mpq.pipeline.kernel_store import KernelStore
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.prepare import Prepared, prepare
from tvm_mpq.pipeline.runtime import HostRuntime
from tvm_mpq.schema import DeviceIdentity
from tvm_mpq.tuning.database import LatencyDatabase
from tvm_mpq.tuning.session import LocalSession
from tvm_mpq.tuning.session_base import Session
from tvm_mpq.tuning.store import default_path


@dataclass
class Bench:
    """What all commands share: the prepared network, where it runs, and what is known so far."""

    options: Options
    prepared: Prepared
    db: LatencyDatabase
    store: KernelStore
    interpreter: Interpreter
    device: DeviceIdentity

    def open_session(self) -> Session:
        return LocalSession(threads=self.options.threads)

    def meter(self) -> latency.Meter:
        return latency.Meter(
            self.prepared.row.name,
            self.device,
            self.store,
            self.db,
            self.open_session,
            latency.SETTINGS,
            self.options.progress,
        )


def open_bench(options: Options) -> Bench:
    """Load the model and open database and kernel store.

    Raises
    ------
    TargetMismatchError
        If this CPU lacks features of the target: its kernels can be neither measured nor used for calibration here.
    """
    row = targets.resolve(options.target)
    lacking = targets.missing_features(row)
    if lacking:
        raise TargetMismatchError(
            f"target {row.name!r} needs {', '.join(lacking)}, which this CPU lacks, so nothing can be measured for it "
            "here: choose target 'local', or run on a machine that has them"
        )
    path = Path(options.db) if options.db else default_path()
    db = LatencyDatabase(path)
    options.tell(f"reading {_name(options.model)}")
    prepared = prepare(
        options.model,
        target=row,
        threads=options.threads,
        example_inputs=options.example_inputs,
        batch=options.batch,
    )
    for note in prepared.loaded.notes:
        options.tell(note)
    store = KernelStore(path.parent / f"{path.name}.kernels", prepared.tvm_target_attrs)
    runtime = HostRuntime(store, prepared.graph, prepared.tvm_target(), prepared.features)
    device = targets.device_identity(row, options.threads)
    return Bench(options, prepared, db, store, Interpreter(prepared.graph, runtime), device)


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
