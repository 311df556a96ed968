"""What a latency speaks of: which code, on which device, and whether it was measured, predicted or simulated."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceIdentity:
    """Which machine a measured number speaks of. Records of another identity are never used as measured."""

    cpu_model: str
    core_type: str  # LLVM's name of the core, e.g. znver4
    isa_features: tuple[str, ...]  # sorted
    cores: int
    threads: int

    @property
    def key(self) -> str:
        features = "+".join(self.isa_features)
        return f"{self.cpu_model}|{self.core_type}|{features}|cores={self.cores}|threads={self.threads}"

    @classmethod
    def parse(cls, key: str) -> DeviceIdentity | None:
        """Inverse of `key`; None for any other text.

        >>> DeviceIdentity.parse("CPU|znver4|avx2+fma|cores=2|threads=1").isa_features
        ('avx2', 'fma')
        """
        match = re.fullmatch(r"(.*)\|(.*)\|(.*)\|cores=(\d+)\|threads=(\d+)", key)
        if not match:
            return None
        features = tuple(match[3].split("+")) if match[3] else ()
        return cls(match[1], match[2], features, int(match[4]), int(match[5]))


@dataclass(frozen=True)
class LatencyKey:
    """What was compiled: workload, precision, the format it emits, and the kernel that does it."""

    workload: str  # Workload.key
    precision: str  # str(Precision); "-" for operators without weights at their tensor's bits
    out_bits: int  # 32 = emits float32, 8 = emits uint8
    family: str
    knobs: str  # canonical JSON
    target: str  # target row's name


class FailureKind(str, enum.Enum):
    """Why a kernel has no time."""

    COMPILE = "compile"  # the compiler refused it, or took too long
    WRONG_RESULT = "wrong_result"  # it computes something else than its definition
    CRASH = "crash"  # it ended or hung its device, or the device refused it
    NOISE = "noise"  # its times scatter too much
    DRIFT = "drift"  # the machine changed its speed while it was measured
    UNTIMED = "untimed"  # other kernels kept crashing the device

    @property
    def is_machines(self) -> bool:
        """A busy machine is the cause, not the kernel: measuring it later may succeed."""
        return self in (FailureKind.NOISE, FailureKind.DRIFT)


MEASURED, PREDICTED, SIMULATED = PROVENANCES = ("measured", "predicted", "simulated")


@dataclass(frozen=True)
class LatencyRecord:
    """One row of the latency database. A failure is a record with a reason and no time.

    failure: in words, for people. failure_kind: for programs; None where there is no failure, and in failures that
    versions before it stored. energy_mj: millijoule of one run, None where its source knows none.

    Of a simulated record, `device` is what simulated which machine (tool, version, digest of its configuration), family
    the tool, and `tvm_version` is empty.
    """

    key: LatencyKey
    device: str  # DeviceIdentity.key
    tvm_version: str
    kernel_version: str
    median_us: float | None
    iqr_us: float | None
    repeats: int
    measured_at: str  # ISO 8601, UTC
    provenance: str  # of `PROVENANCES`
    stated_error: float | None = None  # relative, of a prediction
    failure: str | None = None
    failure_kind: FailureKind | None = None
    energy_mj: float | None = None
