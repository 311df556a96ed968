"""The CPU at hand as a target row, its identity in the latency database, and whether it can run another row's code."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping

from tvm_mpq.errors import InvalidValueError, TargetMismatchError
from tvm_mpq.schema import DeviceIdentity
from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.isa_limit import ISA_LIMIT, allowed_features
from tvm_mpq.targets.rows import KIB, ROWS, TargetRow


def local_row() -> TargetRow:
    """This CPU as a row named `local`: the one answer to the question what this machine offers.

    LLVM names the core. What it believes of that core is corrected by what the operating system reports: a hypervisor
    may hide features, and a core newer than LLVM has more than LLVM's fallback says. `isa_limit` may hide more.
    """
    return _local_row(allowed_features(local_architecture()))


@functools.cache
def _local_row(allowed: frozenset[str] | None) -> TargetRow:
    from tvm.target import Target, codegen

    mcpu = str(codegen.llvm_get_system_cpu())
    believed = frozenset(map(str, codegen.llvm_get_cpu_features(Target({"kind": "llvm", "mcpu": mcpu}))))
    info = cpuinfo.read_cpuinfo()
    table = cpuinfo.FLAGS.get(local_architecture(), {})
    features, mattr = reconcile(believed, info.flags, table, allowed)
    twin = next((row for row in ROWS if row.mcpu == mcpu), None)
    caches = cpuinfo.cache_bytes()
    assumed = "" if {1, 2} <= caches.keys() else "; cache sizes assumed"
    limited = "" if allowed is None else f"; features limited by {ISA_LIMIT}"
    return TargetRow(
        name="local",
        mcpu=mcpu,
        mattr=mattr,
        isa_features=features,
        cores=cpuinfo.core_count(info),
        l1d_bytes=caches.get(1, twin.l1d_bytes if twin else 32 * KIB),
        l2_bytes=caches.get(2, twin.l2_bytes if twin else 256 * KIB),
        l3_bytes=caches.get(3, twin.l3_bytes if twin and assumed else None),
        source=f"LLVM's name of this CPU and the operating system{assumed}{limited}",
    )


def reconcile(
    believed: frozenset[str],
    flags: frozenset[str] | None,
    table: Mapping[str, str],
    allowed: frozenset[str] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features this CPU offers, and the corrections (`+x`, `-x`) that tell LLVM so.

    Parameters
    ----------
    believed : LLVM's features of the core it recognised.
    flags : the operating system's names of what the CPU has; None = unknown, LLVM is believed.
    table : LLVM's name -> the operating system's name, for all features that kernels choose by.
    allowed : the most that may be offered; None = everything.

    >>> table = {"avx2": "avx2", "avx512f": "avx512f", "fma": "fma"}
    >>> reconcile(frozenset({"avx2", "avx512f"}), frozenset({"avx2", "fma"}), table)
    (('avx2', 'fma'), ('-avx512f', '+fma'))
    >>> reconcile(frozenset({"avx2", "avx512f"}), None, table, allowed=frozenset({"avx2"}))
    (('avx2',), ('-avx512f',))
    """
    known = believed & table.keys()
    real = known if flags is None else frozenset(name for name, flag in table.items() if flag in flags)
    real = real if allowed is None else real & allowed
    mattr = [f"-{name}" for name in sorted(known - real)] + [f"+{name}" for name in sorted(real - known)]
    return tuple(sorted(real)), tuple(mattr)


def local_architecture() -> str:
    """Of this machine, as `cpuinfo.architecture` names it."""
    return cpuinfo.architecture(platform.machine())


def missing_features(row: TargetRow) -> list[str]:
    """What this CPU lacks to run code for `row`: its architecture, or else feature names; empty = it can."""
    here = local_architecture()
    wanted = cpuinfo.architecture(row.mtriple) if row.mtriple else here
    if wanted != here:
        return [wanted]
    return sorted(set(row.isa_features) - set(local_row().isa_features))


def require_local(row: TargetRow) -> None:
    """Raise TargetMismatchError when this CPU cannot run, and so not measure, code for `row`."""
    missing = missing_features(row)
    if missing:
        raise TargetMismatchError(
            f"target {row.name!r} cannot be measured here: this CPU ({local_row().mcpu}) lacks {', '.join(missing)}; "
            "measure on the device itself (--rpc HOST:PORT), or choose target 'local'"
        )


def device_identity(row: TargetRow, threads: int) -> DeviceIdentity:
    """This machine, as the latency database names it when code for `row` runs on `threads` threads.

    The identity says what the machine is, whatever it was compiled for: the record's key holds the target.

    Raises
    ------
    TargetMismatchError
        If this CPU cannot run code for `row`.
    InvalidValueError
        If `threads` is below 1.
    """
    if threads < 1:
        raise InvalidValueError(f"threads must be 1 or more (got {threads})")
    require_local(row)
    here = local_row()
    return DeviceIdentity(
        cpu_model=cpuinfo.cpu_model(cpuinfo.read_cpuinfo()),
        core_type=here.mcpu,
        isa_features=here.isa_features,
        cores=here.cores,
        threads=threads,
    )
