"""What operators compute, without their weights: the keys under which latency is known."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm_mpq.errors import FileFormatError
from tvm_mpq.schema.formats import Precision


@dataclass(frozen=True)
class Workload:
    """Base of all workloads: a kind and plain fields; equal fields mean the same compiled code.

    `key` is the text under which the latency database knows it, `from_json` reads `to_json` back. A field named in
    `rare` is left out of the key where it has its default, so that records made before the field existed stay valid.
    float_tensors: inputs and result are float32 at any precision.
    """

    kind: ClassVar[str] = ""
    rare: ClassVar[frozenset[str]] = frozenset()
    float_tensors: ClassVar[bool] = False

    def is_float_at(self, precision: Precision) -> bool:
        """Whether inputs and result are float32 at this precision."""
        return precision.is_float or self.float_tensors

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

    out is [batch, queries, heads * value_features], dense. sources: the logical shapes of the tensors that q, k and v
    lie in; each of these is (source, offset, elements from one batch, head, row, feature to the next), counted without
    the padding of channels. scale > 0.
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
    def terms(self) -> int:
        """The longer of the two sums."""
        return max(self.features, self.keys)

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
