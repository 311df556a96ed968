"""A built folder made ready for a device without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from tvm_mpq import targets
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.deploy.export import Example, NetworkFacts, export
from tvm_mpq.deploy.runtime import installed_runtime, runtime_in
from tvm_mpq.errors import InvalidValueError, MPQError, OutputError
from tvm_mpq.execute import network
from tvm_mpq.pipeline.built_folder import BuiltFolder, open_folder
from tvm_mpq.pipeline.options import check_output
from tvm_mpq.report.exported import ExportReport
from tvm_mpq.tuning.devices.pool import ThisMachine


def export_folder(folder: Path, out: Path, *, data: Path | None = None, runtime: Path | None = None) -> ExportReport:
    """Write `folder`'s library with all that a C++ program needs into `out`.

    data: `.npz` whose first sample becomes the example; None = seeded synthetic data. runtime: folder with TVM's wheels
    for the library's architecture; None = the packages installed here.

    Raises
    ------
    MissingFileError, FileFormatError
        If the folder holds no built library, or the runtime's folder no runtime.
    TargetMismatchError
        If the runtime is for another architecture than the library.
    DataError, OutputError
        If the data do not fit, or the result cannot be written.
    """
    built = open_folder(folder)
    if out.resolve() == folder.resolve():
        raise InvalidValueError(f"the exported folder must be another one than the built one (got {str(out)!r} twice)")
    source = installed_runtime() if runtime is None else runtime_in(runtime)
    sample = load_dataset(data, built.inputs).sample(0)
    inputs = {name: sample[name] for name in built.inputs}
    row = targets.resolve(built.plan.tvm_target())
    precisions = network.summary(built.plan)
    deployed = NetworkFacts(built.model, built.plan.target, sorted(row.isa_features), precisions, built.threads)
    check_output(out)
    try:
        return export(built.library, deployed, source, _example(built, row, inputs), out)
    except MPQError:
        raise
    except OSError as e:
        raise OutputError(f"cannot write to {str(out)!r}: {e.strerror}") from e


def _example(built: BuiltFolder, row: targets.TargetRow, inputs: dict[str, npt.NDArray[Any]]) -> Example:
    """With outputs where this CPU can run the library."""
    if targets.missing_features(row):
        return Example(inputs, None)
    pool = ThisMachine(built.threads)
    try:
        outputs = pool.do(lambda session: network.run_outputs(session, built.library, [list(inputs.values())]))
    finally:
        pool.close()
    return Example(inputs, outputs[0])
