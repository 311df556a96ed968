"""ONNX operators that are linear maps of their input, as products with constant matrices: DFT, STFT, Col2Im.

A spectrum becomes one MatMul, whose weight is the transform's own matrix, and so may be quantized like any linear
operator; Col2Im adds up windows as a transposed convolution does whose kernels are ones at one place each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tvm_mpq.frontends.onnx_nodes import ConstantTensors, TensorTypes, VersionedNode, attribute, static_dims
from tvm_mpq.frontends.onnx_write import Rewriting, unsupported

_LARGEST = 1 << 24
"""Elements of a transform's matrix: 64 MiB."""


def dft(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """A DFT over an axis of known length: real and imaginary parts next to the axis, then one product."""
    node = item.node
    sizes = static_dims(types.get(node.input[0]))
    by_input = len(node.input) > 2 and node.input[2]  # from opset 20 on
    axis = _integer(node, 2, constants) if by_input else attribute(node, "axis", 1 if item.opset < 20 else -2)
    if sizes is None:
        return None
    axis = int(str(axis)) % len(sizes)
    length = _integer(node, 1, constants) if len(node.input) > 1 and node.input[1] else None
    inverse, one_sided = (bool(attribute(node, n, 0)) for n in ("inverse", "onesided"))
    matrix = transform(sizes[axis], sizes[-1], length, inverse, one_sided, node)
    write = Rewriting(node)
    last = len(sizes) - 1
    order = [*(a for a in range(last) if a != axis), axis, last]
    there = write.op("Transpose", node.input[0], perm=order)
    outer = [sizes[a] for a in order[:-2]]
    flat = write.op("Reshape", there, write.hold([*outer, sizes[axis] * sizes[-1]]))
    product = write.op("MatMul", flat, write.hold(matrix.reshape(matrix.shape[0], -1), np.float32))
    apart = write.op("Reshape", product, write.hold([*outer, *matrix.shape[1:]]))
    write.op("Transpose", apart, output=node.output[0], perm=[order.index(a) for a in range(last + 1)])
    return write.nodes


def transform(
    size: int, parts: int, length: int | None, inverse: bool, one_sided: bool, node: onnx.NodeProto
) -> npt.NDArray[np.float32]:
    """float32[size * parts, bins, parts of the result]: how much each number adds to each of the spectrum.

    Raises
    ------
    UnsupportedModelError
        If it is too large.
    """
    if length is None:
        length = 2 * (size - 1) if inverse and one_sided else size
    if size * parts * length * 2 > _LARGEST:
        raise unsupported(node, f"a transform of {length} points is too long (at most {_LARGEST} products each)")
    units = np.eye(size)[:, None] * (np.array([1, 1j])[:parts, None])
    units = units.reshape(size * parts, size)
    if inverse and one_sided:
        return np.fft.irfft(units, length)[..., None].astype(np.float32)
    found = np.fft.ifft(units, length) if inverse else np.fft.fft(units, length)
    found = found[:, : length // 2 + 1] if one_sided else found
    return np.stack([found.real, found.imag], -1).astype(np.float32)


def stft(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """A look-up of the frames, the window, and one product."""
    node = item.node
    sizes = static_dims(types.get(node.input[0]))
    step = _integer(node, 1, constants)
    window = static_dims(types.get(node.input[2])) if len(node.input) > 2 and node.input[2] else None
    length = _integer(node, 3, constants) if len(node.input) > 3 and node.input[3] else None
    if sizes is None or step is None:
        return None
    length = length or (window[0] if window else sizes[1])
    parts = sizes[2] if len(sizes) == 3 else 1
    matrix = transform(length, parts, length, False, bool(attribute(node, "onesided", 1)), node)
    count = 1 + (sizes[1] - length) // step
    write = Rewriting(node)
    places = np.arange(count)[:, None] * step + np.arange(length)
    frames = write.op("Gather", node.input[0], write.hold(places), axis=1)
    frames = write.op("Reshape", frames, write.hold([sizes[0], count, length, parts]))
    if window is not None:
        frames = write.op("Mul", frames, write.op("Reshape", node.input[2], write.hold([length, 1])))
    flat = write.op("Reshape", frames, write.hold([sizes[0], count, length * parts]))
    product = write.op("MatMul", flat, write.hold(matrix.reshape(matrix.shape[0], -1), np.float32))
    write.op("Reshape", product, write.hold([sizes[0], count, *matrix.shape[1:]]), output=node.output[0])
    return write.nodes


def col2im(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """A transposed convolution of one group a channel; kernel k is 1 at place k of the block."""
    node = item.node
    sizes = static_dims(types.get(node.input[0]))
    image, block = (_integers(name, constants) for name in node.input[1:3])
    if sizes is None or image is None or block is None:
        return None
    ones = [1] * len(image)
    dilations, strides = (_list(node, name, ones) for name in ("dilations", "strides"))
    pads = _list(node, "pads", [0] * 2 * len(image))
    counts, rest = [], []
    for i, (whole, kernel) in enumerate(zip(image, block, strict=True)):
        free = whole + pads[i] + pads[i + len(image)] - dilations[i] * (kernel - 1) - 1
        counts.append(free // strides[i] + 1)
        rest.append(free % strides[i])
    places = int(np.prod(block))
    channels = sizes[1] // places
    write = Rewriting(node)
    blocks = write.op("Reshape", node.input[0], write.hold([sizes[0], sizes[1], *counts]))
    kernels = np.tile(np.eye(places, dtype=np.float32), (channels, 1)).reshape(sizes[1], 1, *block)
    window = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": rest}
    held = write.hold(kernels, np.float32)
    write.op("ConvTranspose", blocks, held, output=node.output[0], group=channels, **window)
    return write.nodes


def _integers(name: str, constants: ConstantTensors) -> list[int] | None:
    tensor = constants.get(name)
    return None if tensor is None else [int(v) for v in numpy_helper.to_array(tensor).reshape(-1)]


def _integer(node: onnx.NodeProto, place: int, constants: ConstantTensors) -> int | None:
    """A number that the node needs to be constant.

    Raises
    ------
    UnsupportedModelError
        If it is not.
    """
    found = _integers(node.input[place], constants)
    if not found:
        raise unsupported(node, f"input {node.input[place]!r} must be constant; write it into the file")
    return found[0]


def _list(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return [int(v) for v in np.array(attribute(node, name, default)).reshape(-1)]
