"""Every import is verified before it is worked on, on this machine, whatever the network is built for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tvm_mpq import scratch, targets
from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.execute.host_runtime import HostRuntime
from tvm_mpq.execute.import_check import ImportCheck, check_import
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.prepare import Prepared, annotated
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.contract import ImportVerification
from tvm_mpq.tuning.compile.kernel_store import KernelStore

DECLINED = ImportCheck(skipped="--no-verify-import")


def verified(
    prepared: Prepared, options: Options, here: Interpreter | None, data: Callable[[], Dataset]
) -> ImportCheck:
    """Compare the import with its source's evaluator on the first sample of the data, and tell of it.

    Parameters
    ----------
    here : Interpreter or None
        Of this network on this machine, whose compiled kernels are used again; None where its target's code does not
        run here: the same import is then prepared for this CPU.
    data
        Gives the calibration data; not asked where nothing is verified.

    Raises
    ------
    VerificationError
        If they differ.
    DataError
        If the data do not fit the model.
    """
    if not options.verify_import:
        check = DECLINED
    elif prepared.loaded.reference is None:
        check = ImportCheck(skipped="there is no independent evaluator for this kind of model")
    else:
        options.tell("verifying the import")
        sample = data().sample(0)
        if here is not None:
            check = check_import(prepared, here, sample)
        else:
            with scratch.folder() as folder:
                local = annotated(prepared.loaded, targets.local_row(), 1, ())
                check = check_import(local, interpreter(local, Path(folder)), sample)
    options.tell(check.line)
    return check


def import_verification(check: ImportCheck) -> ImportVerification:
    """As reports hold it."""
    return {
        "evaluator": check.evaluator,
        "error": check.error,
        "seconds": check.seconds,
        "skipped": check.skipped,
    }


def interpreter(prepared: Prepared, folder: Path) -> Interpreter:
    """Runs the network on this machine, its kernels compiled into `folder`."""
    store = KernelStore(folder, prepared.tvm_target_attrs)
    return Interpreter(prepared.graph, HostRuntime(store, prepared.graph, prepared.tvm_target(), prepared.features))
