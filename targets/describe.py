"""The target rows as plain data for people and for JSON, and which of them this CPU can run."""

from __future__ import annotations

import platform
from typing import Any

from tvm_mpq.targets import cpuinfo
from tvm_mpq.targets.detect import local_row, reconcile
from tvm_mpq.targets.isa_limit import allowed_features
from tvm_mpq.targets.rows import ROWS, TargetRow


def describe_rows() -> list[dict[str, Any]]:
    """`local` first, then every row of the table.

    Returns
    -------
    list of dict
        name, aliases, mcpu, triple, features, cores, caches (`l1d_bytes`, `l2_bytes`, `l3_bytes`; None = none or not
        known), source, runs_here, lacking (what this CPU lacks to run it: an architecture or features). Of `local`,
        mcpu and triple are None: LLVM names them, and is not asked here, where loading it would take seconds.
    """
    info = cpuinfo.read_cpuinfo()
    architecture = cpuinfo.architecture(platform.machine())
    features = _features(info, architecture)
    sizes = cpuinfo.cache_bytes()
    local = {
        "name": "local",
        "aliases": [],
        "mcpu": None,
        "triple": None,
        "features": features,
        "cores": cpuinfo.core_count(info),
        "caches": {"l1d_bytes": sizes.get(1), "l2_bytes": sizes.get(2), "l3_bytes": sizes.get(3)},
        "source": f"this machine: {cpuinfo.cpu_model(info)}, {architecture}",
        "runs_here": True,
        "lacking": [],
    }
    return [local, *(_describe(row, architecture, frozenset(features)) for row in ROWS)]


def _features(info: cpuinfo.CpuInfo, architecture: str) -> list[str]:
    """Features of this CPU by LLVM's names; LLVM itself is asked only where the operating system says nothing."""
    if info.flags is None:
        return list(local_row().isa_features)
    found, _ = reconcile(frozenset(), info.flags, cpuinfo.FLAGS.get(architecture, {}), allowed_features(architecture))
    return list(found)


def _describe(row: TargetRow, architecture: str, features: frozenset[str]) -> dict[str, Any]:
    wanted = cpuinfo.architecture(row.mtriple) if row.mtriple else architecture
    lacking = [wanted] if wanted != architecture else sorted(set(row.isa_features) - features)
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "mcpu": row.mcpu,
        "triple": row.mtriple,
        "features": list(row.isa_features),
        "cores": row.cores,
        "caches": {"l1d_bytes": row.l1d_bytes, "l2_bytes": row.l2_bytes, "l3_bytes": row.l3_bytes},
        "source": row.source,
        "runs_here": not lacking,
        "lacking": lacking,
    }
