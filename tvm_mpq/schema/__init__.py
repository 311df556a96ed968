"""The frozen dataclasses that cross rooms. Standard library only; no room is imported here.

Precision   weight and activation bits of an operator, written `w4a8`, or a float format: `fp32`, `bf16`, `fp16`
Workload    what an operator computes, without its weights: the key under which latency is known
TensorQuant how the integers of one activation tensor map to real numbers
Plan        the decision for a whole network: a precision per operator, a TensorQuant per tensor
Budget      what the user allows
LatencyRecord  one row of the latency database
"""

from __future__ import annotations

from tvm_mpq.schema.formats import (
    BF16,
    FLOAT_BITS,
    FP16,
    FP32,
    W4A8,
    W8A8,
    DType,
    LeftOutReason,
    Precision,
    TensorQuant,
    padded_channels,
)
from tvm_mpq.schema.latency import (
    MEASURED,
    PREDICTED,
    PROVENANCES,
    SIMULATED,
    DeviceIdentity,
    FailureKind,
    LatencyKey,
    LatencyRecord,
)
from tvm_mpq.schema.plan import Budget, Plan, Progress, precision_counts
from tvm_mpq.schema.recurrent import WORKLOAD_ATTRIBUTE, RecurrentWorkload
from tvm_mpq.schema.stored import StoredQuantization
from tvm_mpq.schema.workloads import (
    ActivationWorkload,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    FloatWorkload,
    MultiplyWorkload,
    NormWorkload,
    Pool2dWorkload,
    Workload,
)

__all__ = [
    "BF16",
    "FLOAT_BITS",
    "FP16",
    "FP32",
    "MEASURED",
    "PREDICTED",
    "PROVENANCES",
    "SIMULATED",
    "W4A8",
    "W8A8",
    "WORKLOAD_ATTRIBUTE",
    "ActivationWorkload",
    "AddWorkload",
    "AttentionWorkload",
    "Budget",
    "ConcatWorkload",
    "Conv2dWorkload",
    "ConvertWorkload",
    "CopyWorkload",
    "DType",
    "DeviceIdentity",
    "FailureKind",
    "FloatWorkload",
    "LatencyKey",
    "LatencyRecord",
    "LeftOutReason",
    "MultiplyWorkload",
    "NormWorkload",
    "Plan",
    "Pool2dWorkload",
    "Precision",
    "Progress",
    "RecurrentWorkload",
    "StoredQuantization",
    "TensorQuant",
    "Workload",
    "padded_channels",
    "precision_counts",
]
