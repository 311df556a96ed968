"""The frozen dataclasses that cross rooms. Standard library only; no room is imported here.

Precision   weight and activation bits of an operator, written `w4a8`, or a float format: `fp32`, `bf16`, `fp16`
Workload    what an operator computes, without its weights: the key under which latency is known
TensorQuant how the integers of one activation tensor map to real numbers
Plan        the decision for a whole network: a precision per operator, a TensorQuant per tensor
Budget      what the user allows
LatencyRecord  one row of the latency database
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError

FLOAT_BITS = 32
"""The storage format of a float32 tensor, where an integer tensor's format is its bits."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Hears often from long work: how much is done, of how much, and what is done."""


class DType(str, enum.Enum):
    """The numbers that an operator computes with."""

    INT = "int"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


_FLOAT_STORAGE_BITS = {DType.FP32: 32, DType.FP16: 16, DType.BF16: 16}


@dataclass(frozen=True, order=True)
class Precision:
    """The numbers an operator computes with: weight and activation bits of integers, or a float format.

    Every kind of float operator reads and writes float32 tensors; bf16 rounds its operands inside (numerics/bfloat16).
    The bits of a float are those of its format. No kernel computes in fp16 yet.

    >>> p = Precision.parse("w4a8")
    >>> p.weight_bits, p.activation_bits, p.is_float
    (4, 8, False)
    >>> str(Precision(8, 8)), str(Precision.parse("fp32")), Precision.of_floats(DType.FP16) == BF16
    ('w8a8', 'fp32', False)
    """

    weight_bits: int
    activation_bits: int
    dtype: DType = DType.INT

    def __post_init__(self) -> None:
        bits = self.weight_bits, self.activation_bits
        if self.is_float:
            own = _FLOAT_STORAGE_BITS[self.dtype]
            if bits != (own, own):
                raise InvalidValueError(f"{self.dtype.value} has {own} bits for weights and activations (got {bits})")
        elif not all(1 <= b <= 8 for b in bits):
            raise InvalidValueError(
                f"weight and activation bits must be in [1, 8] (got w{self.weight_bits}a{self.activation_bits})"
            )

    @property
    def is_float(self) -> bool:
        return self.dtype is not DType.INT

    @classmethod
    def of_floats(cls, dtype: DType) -> Precision:
        """The precision of a float format."""
        bits = _FLOAT_STORAGE_BITS[dtype]
        return cls(bits, bits, dtype)

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read `w<1..8>a<1..8>`, `fp32`, `bf16` or `fp16`. Raises InvalidValueError on anything else."""
        for dtype in _FLOAT_STORAGE_BITS:
            if text == dtype.value:
                return cls.of_floats(dtype)
        match = re.fullmatch(r"w(\d)a(\d)", text)
        if not match:
            raise InvalidValueError(f"a precision is fp32, bf16 or w<bits>a<bits>, such as w4a8 (got {text!r})")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return self.dtype.value if self.is_float else f"w{self.weight_bits}a{self.activation_bits}"


FP32 = Precision.of_floats(DType.FP32)
BF16 = Precision.of_floats(DType.BF16)
W8A8 = Precision(8, 8)
W4A8 = Precision(4, 8)


@dataclass(frozen=True)
class Workload:
    """Base of all workloads: a kind and plain fields; equal fields mean the same compiled code.

    `key` is the text under which the latency database knows it, `from_json` reads `to_json` back. A field named in
    `rare` is left out of the key where it has its default, so that records made before the field existed stay valid.
    """

    kind: ClassVar[str] = ""
    rare: ClassVar[frozenset[str]] = frozenset()

    @property
    def key(self) -> str:
        """Readable and unique, e.g. `add(shape=1x8x8x16,activation=relu)`."""
        parts = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in self.rare and value == f.default:
                continue
            parts.append(f"{f.name}={_key_text(value)}")
        return f"{self.kind}({','.join(parts)})"

    @property
    def terms(self) -> int:
        """How many products, or values of an average, one output adds up; 0 where nothing is added up."""
        return 0

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Workload:
        """Raises FileFormatError for an unknown kind or missing fields."""
        kinds = {cls.kind: cls for cls in Workload.__subclasses__()}
        rest = {k: _as_tuples(v) for k, v in data.items() if k != "kind"}
        try:
            return kinds[data["kind"]](**rest)
        except (KeyError, TypeError) as e:
            raise FileFormatError(f"not a workload of kinds {sorted(kinds)} (got {data!r}: {e})") from e


def _key_text(value: Any) -> str:
    """Numbers of a tuple are joined by x, tuples in a tuple by +."""
    if not isinstance(value, tuple):
        return str(value)
    return ("+" if value and isinstance(value[0], tuple) else "x").join(map(_key_text, value))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Conv2dWorkload(Workload):
    """Convolution of any stride, padding, dilation and groups, and linear layers as its 1x1 case.

    Data NHWC, weights OHWI (I = in_channels / groups). y = act(conv(x, w) + bias [+ residual]).
    A linear layer on [M, C] is batch 1, in_height 1, in_width M, kernel 1x1.
    input_dilation - 1 zeros stand between neighbouring rows and columns of x before it is padded: a transposed
    convolution of stride s is one with input dilation s, stride 1 and flipped weights.

    activation: `none`, `relu`, `clip:LO:HI` (relu6 is `clip:0.0:6.0`), `hard_swish`, `hard_sigmoid`, `sigmoid`,
    `silu`, `gelu`, `gelu_tanh`, `tanh`, `leaky_relu:ALPHA`.
    """

    kind: ClassVar[str] = "conv2d"
    rare: ClassVar[frozenset[str]] = frozenset({"input_dilation"})
    batch: int
    in_height: int
    in_width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    residual: bool = False
    activation: str = "none"
    input_dilation: tuple[int, int] = (1, 1)

    @property
    def dilated_height(self) -> int:
        """Rows of the input with the zeros between them, without padding."""
        return (self.in_height - 1) * self.input_dilation[0] + 1

    @property
    def dilated_width(self) -> int:
        return (self.in_width - 1) * self.input_dilation[1] + 1

    @property
    def out_height(self) -> int:
        top, _, bottom, _ = self.padding
        return (self.dilated_height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        _, left, _, right = self.padding
        return (self.dilated_width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1

    @property
    def is_depthwise(self) -> bool:
        """One input channel a group (also with a channel multiplier)."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def terms(self) -> int:
        """Without input dilation; with it fewer."""
        return self.kernel[0] * self.kernel[1] * self.in_channels // self.groups

    @property
    def macs(self) -> int:
        """Products; those with the zeros of the padding count, those with the zeros of input dilation do not."""
        positions = self._products(0, self.out_height) * self._products(1, self.out_width)
        return self.batch * positions * self.out_channels * self.in_channels // self.groups

    def _products(self, axis: int, outputs: int) -> int:
        """Pairs of an output and a kernel position along one axis that meet an element of x, or of the padding."""
        kernel, every = self.kernel[axis], self.input_dilation[axis]
        if every == 1:
            return outputs * kernel
        origins = [o * self.stride[axis] - self.padding[axis] for o in range(outputs)]
        return sum((origin + k * self.dilation[axis]) % every == 0 for origin in origins for k in range(kernel))

    @property
    def weight_count(self) -> int:
        return self.out_channels * self.terms


@dataclass(frozen=True)
class Pool2dWorkload(Workload):
    """Maximum or average pooling, NHWC. mode: `max`, `avg` (padding counted) or `avg_valid` (padding not counted)."""

    kind: ClassVar[str] = "pool2d"
    mode: str
    batch: int
    in_height: int
    in_width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    out_height: int
    out_width: int  # given, because of ceil_mode: windows may reach past bottom and right; those cells do not count

    @property
    def terms(self) -> int:
        return 0 if self.mode == "max" else self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class AddWorkload(Workload):
    """y = act(a + b), equal shapes, channels last."""

    kind: ClassVar[str] = "add"
    shape: tuple[int, ...]
    activation: str = "none"


@dataclass(frozen=True)
class MultiplyWorkload(Workload):
    """y = act(a * b); b is [N, 1, 1, C] (broadcast over the map, squeeze-excite) or has a's shape."""

    kind: ClassVar[str] = "multiply"
    shape: tuple[int, ...]
    broadcast: bool
    activation: str = "none"


@dataclass(frozen=True)
class ConcatWorkload(Workload):
    """Concatenation along the last axis (channels) of maps [rows, channels[i]]; rows = product of the other axes."""

    kind: ClassVar[str] = "concat"
    rows: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ActivationWorkload(Workload):
    """y = act(x), element by element, channels last."""

    kind: ClassVar[str] = "activation"
    shape: tuple[int, ...]
    activation: str


@dataclass(frozen=True)
class CopyWorkload(Workload):
    """y[i] = x[begin + stride * (i - pad_before)] inside the source, zero elsewhere, over NHWC axes.

    Slices, strided slices, zero padding and their compositions (a ResNet option-A shortcut is one).
    """

    kind: ClassVar[str] = "copy"
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    begin: tuple[int, ...]
    stride: tuple[int, ...]
    count: tuple[int, ...]  # how many source elements are taken along each axis
    pad_before: tuple[int, ...]


@dataclass(frozen=True)
class ConvertWorkload(Workload):
    """A boundary: the same tensor in another storage format. shape is logical, channels last.

    from_bits / to_bits: 32 = float32 (unpadded channels), 1..8 = uint8 with padded channels.
    channels_first: the float side is stored [N, C, H, W] (network inputs and outputs in NCHW).
    """

    kind: ClassVar[str] = "convert"
    shape: tuple[int, ...]
    from_bits: int
    to_bits: int
    channels_first: bool = False


@dataclass(frozen=True)
class AttentionWorkload(Workload):
    """out[b, i, h, :] = sum over j of softmax_j(scale * q[b, h, i, :] . k[b, h, j, :]) * v[b, h, j, :].

    out is float32[batch, queries, heads, value_features], dense. sources: the shapes of the tensors that q, k and v lie
    in; each of these is (source, offset, elements from one batch, head, row, feature to the next). scale > 0.
    """

    kind: ClassVar[str] = "attention"
    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    value_features: int
    scale: float
    sources: tuple[tuple[int, ...], ...]
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]

    @property
    def macs(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.features + self.value_features)


@dataclass(frozen=True)
class NormWorkload(Workload):
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, mean and variance over the last axis of `shape`."""

    kind: ClassVar[str] = "layer_norm"
    shape: tuple[int, ...]
    epsilon: float

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class FloatWorkload(Workload):
    """Float operators without a template; fingerprint = structural hash of the PrimFunc, summary for people."""

    kind: ClassVar[str] = "float"
    fingerprint: str
    summary: str


@dataclass(frozen=True)
class TensorQuant:
    """real = (q - zero_point) * scale, q in [0, 2^bits - 1], stored one value a byte."""

    bits: int
    scale: float  # exactly representable as float32
    zero_point: int


@dataclass(frozen=True)
class Budget:
    """What the user allows. None = not limited. At least one must be given, except for a plain `max_drop` default.

    latency_ratio: to uniform 8 bit, in (0, 1]; latency_ms > 0; size_mb > 0 (weights, 10^6 bytes);
    max_drop >= 0, accuracy points (top-1 against labels, or agreement with fp32 when there are no labels).
    """

    latency_ratio: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    max_drop: float | None = None
    energy_mj: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ratio", "latency_ms", "size_mb", "energy_mj"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidValueError(f"budget {name} must be above 0 (got {value:g})")
        if self.latency_ratio is not None and self.latency_ratio > 1:
            raise InvalidValueError(
                f"budget latency_ratio is a share of uniform 8 bit and must be in (0, 1] (got {self.latency_ratio:g}); "
                "give latency_ms to allow more"
            )
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise InvalidValueError(f"budget max_drop must be 0 or more accuracy points (got {self.max_drop:g})")


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


@dataclass(frozen=True)
class LatencyRecord:
    """One row of the latency database. A failure is a record with a reason and no time.

    failure: in words, for people. failure_kind: for programs; None where there is no failure, and in failures that
    versions before it stored.
    """

    key: LatencyKey
    device: str  # DeviceIdentity.key
    tvm_version: str
    kernel_version: str
    median_us: float | None
    iqr_us: float | None
    repeats: int
    measured_at: str  # ISO 8601, UTC
    provenance: str  # "measured" | "predicted"
    stated_error: float | None = None  # relative, of a prediction
    failure: str | None = None
    failure_kind: FailureKind | None = None


@dataclass(frozen=True)
class Plan:
    """The decision for one network on one target; `Realize(plan)` needs nothing else but the module."""

    target: str
    tvm_target_attrs: dict[str, Any]
    operators: dict[str, str]  # operator name -> precision text, e.g. "w4a8", "fp32"
    tensors: dict[str, list[TensorQuant]]  # tensor name -> one entry per bit-width
    formats: dict[str, int] = field(default_factory=dict)  # tensor name -> stored bits (32 = float32); absent: by rule
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)  # Request.key -> {"family": ..., "knobs": {...}}
    info: dict[str, Any] = field(default_factory=dict)  # free, for reports: latencies, solver, versions

    VERSION: ClassVar[int] = 1

    @property
    def threads(self) -> int:
        """Threads that its kernels are laid out for."""
        return int(self.tvm_target_attrs.get("num-cores", 1))

    def precision(self, operator: str) -> Precision:
        return Precision.parse(self.operators[operator])

    def quant(self, tensor: str, bits: int) -> TensorQuant:
        """Raises InvalidValueError when the plan has no such tensor at these bits."""
        for q in self.tensors.get(tensor, ()):
            if q.bits == bits:
                return q
        known = ", ".join(str(q.bits) for q in self.tensors.get(tensor, ())) or "none"
        raise InvalidValueError(
            f"plan has no {bits} bit range for tensor {tensor!r} (it has: {known}); calibrate the model again with "
            f"precisions of {bits} bit activations offered, or name others in the plan"
        )

    def tvm_target(self) -> Any:
        """The `tvm.target.Target` to compile with (the only place here that needs TVM)."""
        import tvm

        return tvm.target.Target(dict(self.tvm_target_attrs))

    def save(self, path: str | Path) -> None:
        """Raises OutputError when the file cannot be written."""
        text = json.dumps({"version": self.VERSION, **dataclasses.asdict(self)}, indent=1, sort_keys=True)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as e:
            raise OutputError(f"cannot write plan {str(path)!r}: {e.strerror}") from e

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Raises MissingFileError or FileFormatError."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise MissingFileError(f"no plan file at {str(path)!r}") from e
        except (ValueError, OSError) as e:
            raise FileFormatError(f"{str(path)!r} is not a plan file: {e}") from e
        if not isinstance(data, dict) or data.pop("version", None) != cls.VERSION:
            raise FileFormatError(f"{str(path)!r} is not a plan file of version {cls.VERSION}")
        try:
            data["tensors"] = {k: [TensorQuant(**q) for q in v] for k, v in data["tensors"].items()}
            plan = cls(**data)
        except (KeyError, TypeError, AttributeError) as e:
            raise FileFormatError(f"{str(path)!r} is not a plan file: {e}") from e
        for text in plan.operators.values():
            Precision.parse(text)
        return plan


def padded_channels(channels: int) -> int:
    """Channels as stored in an integer tensor: up to 4 -> 4 (first layers), else the next multiple of 16.

    The padded cells hold anything; consumers give them zero weights. One 16 byte lane group is one output vector of a
    512 bit int32 accumulator, so stores never need a mask.
    """
    return 4 if channels <= 4 else -(-channels // 16) * 16
