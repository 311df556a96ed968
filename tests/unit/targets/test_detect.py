from __future__ import annotations

import dataclasses
import platform

import pytest
from tvm.target import codegen

from tvm_mpq.errors import InvalidValueError, TargetMismatchError
from tvm_mpq.targets import (
    ROWS,
    cpuinfo,
    detect,
    device_identity,
    local_row,
    missing_features,
    require_local,
    resolve,
    to_tvm,
)

OTHER = "cortex-a72" if cpuinfo.architecture(platform.machine()) != "aarch64" else "cascadelake"


def test_local_row_is_this_cpu() -> None:
    row = local_row()
    assert row.name == "local"
    assert row.mcpu == codegen.llvm_get_system_cpu()
    assert row.cores >= 1
    assert 0 < row.l1d_bytes < row.l2_bytes
    assert missing_features(row) == []
    require_local(row)


def test_llvm_compiles_with_exactly_the_features_this_cpu_has() -> None:
    row = local_row()
    known = cpuinfo.FLAGS[cpuinfo.architecture(platform.machine())].keys()
    llvm = frozenset(map(str, codegen.llvm_get_cpu_features(to_tvm(row))))
    assert llvm & known == frozenset(row.isa_features)


TABLE = {"avx2": "avx2", "avx512f": "avx512f", "avx512vnni": "avx512_vnni"}


@pytest.mark.parametrize(
    ("believed", "flags", "features", "mattr"),
    [
        ({"avx2", "sha"}, {"avx2"}, ("avx2",), ()),
        ({"avx2", "avx512f"}, {"avx2", "sha"}, ("avx2",), ("-avx512f",)),  # hidden by a hypervisor
        (set(), {"avx2", "avx512_vnni"}, ("avx2", "avx512vnni"), ("+avx2", "+avx512vnni")),  # newer than LLVM
        ({"avx2", "sha"}, None, ("avx2",), ()),  # the system does not say
    ],
)
def test_the_operating_system_corrects_llvm(
    believed: set[str], flags: set[str] | None, features: tuple[str, ...], mattr: tuple[str, ...]
) -> None:
    given = None if flags is None else frozenset(flags)
    assert detect.reconcile(frozenset(believed), given, TABLE) == (features, mattr)


LINUX_FLAGS_OF_SAPPHIRE_RAPIDS = """
    ssse3 fma sse4_1 popcnt avx f16c avx2 bmi2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx_vnni
    avx512_bf16 avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_fp16
"""


def test_the_systems_names_of_x86_features_are_all_known() -> None:
    row = resolve("sapphirerapids")
    flags = frozenset(LINUX_FLAGS_OF_SAPPHIRE_RAPIDS.split())
    found, mattr = detect.reconcile(frozenset(row.isa_features), flags, cpuinfo.X86_FLAGS)
    assert mattr == ()
    assert set(found) == set(row.isa_features)


def test_the_systems_names_of_arm_features_are_all_known() -> None:
    row = resolve("neoverse-v1")
    flags = frozenset(["fp", "asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16"])
    found, mattr = detect.reconcile(frozenset(row.isa_features), flags, cpuinfo.ARM64_FLAGS)
    assert mattr == ()
    assert set(found) == set(row.isa_features)


def test_another_architecture_is_named() -> None:
    row = resolve(OTHER)
    assert row.mtriple is not None
    assert missing_features(row) == [cpuinfo.architecture(row.mtriple)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the rows in question are x86 rows")
def test_missing_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(local_row(), mcpu="haswell", isa_features=resolve("haswell").isa_features)
    monkeypatch.setattr(detect, "local_row", lambda: small)
    assert missing_features(resolve("haswell")) == []
    assert "avx512vnni" in missing_features(resolve("x86-avx512vnni"))
    with pytest.raises(TargetMismatchError, match=r"'cascadelake' cannot be measured here.*haswell.*avx512vnni.*--rpc"):
        require_local(resolve("x86-avx512vnni"))


def test_identity_says_what_the_machine_is_whatever_was_compiled() -> None:
    identity = device_identity(local_row(), threads=2)
    assert identity.threads == 2
    assert identity.core_type == local_row().mcpu
    assert identity.isa_features == tuple(sorted(identity.isa_features)) == local_row().isa_features
    assert identity.cpu_model
    for row in ROWS:
        if not missing_features(row):
            assert device_identity(row, threads=2) == identity
        else:
            with pytest.raises(TargetMismatchError):
                device_identity(row, threads=2)


@pytest.mark.parametrize("threads", [0, -1])
def test_identity_needs_a_thread(threads: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"1 or more \(got {threads}\)"):
        device_identity(local_row(), threads)
