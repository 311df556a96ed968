"""From a name (or a TVM target) to a row, and from a row to a TVM target."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

from tvm_mpq.errors import InvalidValueError, UnknownTargetError
from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.detect import local_row
from tvm_mpq.targets.rows import BY_NAME, ROWS, TargetRow

if TYPE_CHECKING:
    from tvm.target import Target


def names() -> tuple[str, ...]:
    """Every name that `resolve` knows, `local` first, aliases included."""
    return ("local", *BY_NAME)


def resolve(target: str | TargetRow | Target) -> TargetRow:
    """The row of a name, of a `tvm.target.Target`, or of `local` (this CPU).

    Raises
    ------
    UnknownTargetError
        If no row has this name.
    InvalidValueError
        If a TVM target is not for a CPU, or does not say which.
    """
    if isinstance(target, TargetRow):
        return target
    if not isinstance(target, str):
        return from_tvm(target)
    name = target.strip().lower()
    if name == "local":
        return local_row()
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UnknownTargetError(f"unknown target {target!r}{hint}; known targets: {', '.join(names())}")


def features(row: TargetRow) -> frozenset[str]:
    """The row's ISA features, as kernel requests carry them."""
    return frozenset(row.isa_features)


def threads_of(target: object) -> int:
    """Threads that code for a `tvm.target.Target` may use (its `num-cores`); 1 where that, or a name, says nothing."""
    attrs = getattr(target, "attrs", None)
    return int(attrs["num-cores"]) if attrs is not None and "num-cores" in attrs else 1


def to_tvm_attrs(row: TargetRow, cores: int | None = None) -> dict[str, Any]:
    """The dictionary from which `tvm.target.Target` is made; plain values that JSON keeps.

    Parameters
    ----------
    cores : threads that the code may use; None = all cores of the row.
    """
    count = row.cores if cores is None else cores
    if count < 1:
        raise InvalidValueError(f"cores must be 1 or more (got {count})")
    attrs: dict[str, Any] = {"kind": row.kind, "mcpu": row.mcpu, "num-cores": count}
    if row.mtriple is not None:
        attrs["mtriple"] = row.mtriple
        if row.mtriple.endswith("hf"):
            attrs["mfloat-abi"] = "hard"  # TVM leaves it soft, which the triple's own linker refuses
    if row.mattr:
        attrs["mattr"] = list(row.mattr)
    return attrs


def to_tvm(row: TargetRow, cores: int | None = None) -> Target:
    """The `tvm.target.Target` of a row. Facts that TVM has no key for (caches, source) stay in the row."""
    from tvm.target import Target

    return Target(to_tvm_attrs(row, cores))


def from_tvm(target: Target) -> TargetRow:
    """A row for a target that the user made; features are what LLVM says of it.

    A target for the same code as a known row gives that row. Otherwise cores and caches come from the row of the same
    core, or from this machine's, and the name spells out what was given.

    Raises
    ------
    InvalidValueError
        If it is no LLVM target, or names neither a core (mcpu) nor features (mattr), or a core unknown to LLVM.
    """
    from tvm.target import codegen

    kind = str(getattr(getattr(target, "kind", None), "name", type(target).__name__))
    if kind != "llvm":
        raise InvalidValueError(f"target must be a name, a TargetRow or a tvm Target of kind llvm (got {kind})")
    given = dict(target.attrs)
    mcpu, mtriple = (str(given[key]) if key in given else None for key in ("mcpu", "mtriple"))
    mattr = tuple(str(text) for text in given.get("mattr", ()))
    if mcpu is None and not mattr:
        raise InvalidValueError("a tvm Target must name its mcpu (got none); give one, or target 'local'")
    triple = mtriple or str(codegen.llvm_get_system_triple())
    if mcpu is not None and not codegen.llvm_is_valid_cpu(mcpu, triple):
        raise InvalidValueError(f"mcpu must be a name that LLVM knows for {triple} (got {mcpu!r})")

    arch = cpuinfo.architecture(triple)
    alike = [row for row in (*ROWS, local_row()) if row.mcpu == mcpu and _architecture(row) == arch]
    for row in alike:
        if row.mattr == mattr and row.mtriple == mtriple:
            return dataclasses.replace(row, cores=int(given.get("num-cores", row.cores)))
    base = alike[0] if alike else local_row()
    known = cpuinfo.FLAGS.get(arch, {}).keys()
    found = frozenset(map(str, codegen.llvm_get_cpu_features(target)))
    return TargetRow(
        name="llvm:" + ",".join(text for text in (mcpu, mtriple, *mattr) if text),
        mcpu=mcpu or "generic",
        mtriple=mtriple,
        mattr=mattr,
        isa_features=tuple(sorted(found & known)),
        cores=int(given.get("num-cores", base.cores)),
        l1d_bytes=base.l1d_bytes,
        l2_bytes=base.l2_bytes,
        l3_bytes=base.l3_bytes,
        source=f"a tvm Target given by the caller; caches of {base.name}",
    )


def _architecture(row: TargetRow) -> str:
    from tvm.target import codegen

    return cpuinfo.architecture(row.mtriple or str(codegen.llvm_get_system_triple()))
