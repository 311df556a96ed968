"""Windows of torch: places of maxima and back, pools of an adaptive size, unfold and fold."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError


def max_pool(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> Any:
    """Maxima and, where anybody reads them, their places in the plane. TVM's converter has zeros for these.

    Raises
    ------
    UnsupportedModelError
        For places in three dimensions.
    """
    if not _second_is_read(node):
        return None
    if "3d" in str(node.target.__name__):
        raise UnsupportedModelError(
            f"{what}: max_pool3d with return_indices is not supported; export the model with torch.onnx.export and "
            "give that file"
        )
    kernel = _pair(given["kernel_size"])
    return _with_places(
        importer,
        given["self"],
        kernel,
        _pair(given["stride"] or kernel),
        _pair(given["padding"]),
        _pair(given["dilation"]),
        [int(n) for n in node.meta["val"][0].shape[-2:]],
    )


def _with_places(
    importer: Any, x: Any, kernel: Sequence[int], strides: Sequence[int], front: Sequence[int],
    dilations: Sequence[int], counts: Sequence[int],
) -> relax.Tuple:  # fmt: skip
    """The first largest cell of each window: all cells that stand at one place of a window are one shifted copy."""
    emit = importer.block_builder.emit
    *outer, height, width = (int(n) for n in x.ty.shape)
    behind = [
        max((n - 1) * s + (k - 1) * d + 1 - f - size, 0)
        for n, s, k, d, f, size in zip(counts, strides, kernel, dilations, front, (height, width), strict=True)
    ]
    pads = [0, 0] * len(outer) + [front[0], behind[0], front[1], behind[1]]
    padded = emit(relax.op.nn.pad(x, pads, pad_mode="constant", pad_value=-np.inf)) if any(pads) else x
    places = list(itertools.product(*(range(k) for k in kernel)))
    offsets = np.array(places) * dilations
    cells = [
        emit(relax.op.expand_dims(_every(padded, offset, strides, counts, len(outer)), 0))
        for offset in offsets.tolist()
    ]
    stacked = emit(relax.op.concat(cells, axis=0))
    largest = emit(relax.op.max(stacked, axis=0))
    which = emit(relax.op.argmax(stacked, axis=0))
    corners = (np.arange(counts[0]) * strides[0] - front[0])[:, None] * width + np.arange(counts[1]) * strides[1]
    moved = emit(relax.op.take(relax.const(offsets @ np.array([width, 1]), "int64"), which))
    return relax.Tuple([largest, emit(relax.op.add(moved, relax.const(corners - front[1], "int64")))])


def _every(x: Any, first: Sequence[int], strides: Sequence[int], counts: Sequence[int], outer: int) -> relax.Expr:
    """Cells `first`, `first + stride`, ... of the last two axes."""
    ends = [f + (n - 1) * s + 1 for f, s, n in zip(first, strides, counts, strict=True)]
    return relax.op.strided_slice(x, [outer, outer + 1], list(first), ends, list(strides))


def max_unpool(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> relax.Expr:
    """Zeros, with the values at their places in the plane."""
    emit = importer.block_builder.emit
    values, places = given["self"], given["indices"]
    *outer, height, width = (int(n) for n in values.ty.shape)
    whole = [*outer, *(int(n) for n in given["output_size"])]
    planes = int(np.prod(outer))
    flat = [emit(relax.op.reshape(t, (planes, height * width))) for t in (values, places)]
    zeros = relax.const(np.zeros((planes, whole[-2] * whole[-1]), np.float32))
    return emit(relax.op.reshape(emit(relax.op.scatter_elements(zeros, flat[1], flat[0], axis=1)), whole))


def adaptive_max_pool(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> relax.Tuple:
    """Windows of equal size where the result divides the image, else of their own sizes, one axis after the other.

    Raises
    ------
    UnsupportedModelError
        Where places of maxima are asked for and windows differ.
    """
    emit = importer.block_builder.emit
    x = given["self"]
    sizes = [int(n) for n in x.ty.shape][-2:]
    results = _pair(given["output_size"])
    strides = [size // n for size, n in zip(sizes, results, strict=True)]
    even = all(size % n == 0 for size, n in zip(sizes, results, strict=True))
    if _second_is_read(node):
        if not even:
            raise UnsupportedModelError(
                f"{what}: adaptive_max_pool2d with return_indices of {sizes[0]}x{sizes[1]} to "
                f"{results[0]}x{results[1]} is not supported; use sizes that divide the image's, or leave the indices"
            )
        return _with_places(importer, x, strides, strides, [0, 0], [1, 1], results)
    if even and x.ty.ndim == 4:
        return relax.Tuple([emit(relax.op.nn.max_pool2d(x, strides, strides)), x])
    for axis, (size, count) in enumerate(zip(sizes, results, strict=True), x.ty.ndim - 2):
        bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        parts = [
            emit(relax.op.max(relax.op.strided_slice(x, [axis], [a], [b]), axis=axis, keepdims=True)) for a, b in bounds
        ]
        x = emit(relax.op.concat(parts, axis=axis)) if count > 1 else parts[0]
    return relax.Tuple([x, x])


def unfold(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> relax.Expr:
    """Columns of windows: each place of the window is one shifted copy of the image."""
    emit = importer.block_builder.emit
    x = given["self"]
    kernel, dilation, padding, stride = (_pair(given[n]) for n in ("kernel_size", "dilation", "padding", "stride"))
    *outer, height, width = (int(n) for n in x.ty.shape)
    pads = [0, 0] * len(outer) + [padding[0]] * 2 + [padding[1]] * 2
    padded = emit(relax.op.nn.pad(x, pads)) if any(pads) else x
    counts = [
        (size + 2 * p - (k - 1) * d - 1) // s + 1
        for size, p, k, d, s in zip((height, width), padding, kernel, dilation, stride, strict=True)
    ]
    cells = []
    for place in itertools.product(*(range(k) for k in kernel)):
        first = [i * d for i, d in zip(place, dilation, strict=True)]
        cut = emit(_every(padded, first, stride, counts, len(outer)))
        cells.append(emit(relax.op.reshape(cut, (*outer, 1, counts[0] * counts[1]))))
    columns = emit(relax.op.concat(cells, axis=len(outer)))
    return emit(relax.op.reshape(columns, (*outer[:-1], outer[-1] * len(cells), counts[0] * counts[1])))


def fold(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> relax.Expr:
    """A transposed convolution of one group a channel; kernel k is 1 at place k of the window."""
    emit = importer.block_builder.emit
    x = given["self"]
    image, kernel, dilation, padding, stride = (
        _pair(given[n]) for n in ("output_size", "kernel_size", "dilation", "padding", "stride")
    )
    *batch, rows, _ = (int(n) for n in x.ty.shape)
    free = [size + 2 * p - (k - 1) * d - 1 for size, p, k, d in zip(image, padding, kernel, dilation, strict=True)]
    counts = [f // s + 1 for f, s in zip(free, stride, strict=True)]
    rest = [f % s for f, s in zip(free, stride, strict=True)]
    places = kernel[0] * kernel[1]
    channels = rows // places
    blocks = emit(relax.op.reshape(x, (batch[0] if batch else 1, rows, *counts)))
    kernels = np.tile(np.eye(places, dtype=np.float32), (channels, 1)).reshape(rows, 1, *kernel)
    summed = emit(
        relax.op.nn.conv2d_transpose(
            blocks,
            relax.const(kernels),
            strides=stride,
            padding=padding,
            output_padding=rest,
            dilation=dilation,
            groups=channels,
        )
    )
    return summed if batch else emit(relax.op.squeeze(summed, axis=[0]))


def _pair(sizes: Any) -> list[int]:
    """One number for both axes, or one each."""
    found = [int(n) for n in (sizes if isinstance(sizes, (list, tuple)) else [sizes])]
    return found * 2 if len(found) == 1 else found


def _second_is_read(node: Any) -> bool:
    """Whether somebody reads the places, or the network returns them."""
    return any(user.args[1] == 1 and user.users for user in node.users)
