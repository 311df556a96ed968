"""TFLite operators that put elements in other places: gathered, scattered, resized, mirrored, moved between axes.

Each function takes the importer and an operator and gives its result. Meanings are those of LiteRT's kernels.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite
from tvm import relax

from tvm_mpq.frontends.axis_products import along


def options_of(op: Any, kind: type) -> Any:
    """The operator's options, all at their defaults where it has none."""
    table, found = op.BuiltinOptions(), kind()
    if table is None:
        return None
    found.Init(table.Bytes, table.Pos)
    return found


def mirror_pad(importer: Any, op: Any) -> Any:
    """REFLECT leaves the edge out, SYMMETRIC repeats it: rows taken by number, in both ways."""
    data, pads = importer.get_input_tensors(op)
    expr, shape = importer.get_tensor_expr(data), [int(n) for n in importer.get_tensor_shape(data)]
    mode = "reflect" if options_of(op, tflite.MirrorPadOptions).Mode() == tflite.MirrorPadMode.REFLECT else "symmetric"
    for axis, (before, behind) in enumerate(np.asarray(importer.get_tensor_value(pads)).tolist()):
        if before or behind:
            expr = _taken(expr, axis, np.pad(np.arange(shape[axis]), (before, behind), mode=mode))  # type: ignore[call-overload]
    return expr


def _taken(expr: Any, axis: int, places: npt.NDArray[Any]) -> Any:
    return relax.op.take(expr, relax.const(places.astype(np.int64)), axis=axis, mode="clip")


def resize(importer: Any, op: Any, *, linear: bool) -> Any:
    """Each axis of its own, as LiteRT computes places; in float32, which decides ties."""
    data, size = importer.get_input_tensors(op)
    kind = tflite.ResizeBilinearOptions if linear else tflite.ResizeNearestNeighborOptions
    options = options_of(op, kind)
    corners, centers = (False, False) if options is None else (options.AlignCorners(), options.HalfPixelCenters())
    old, new = importer.get_tensor_shape(data)[1:3], np.ravel(importer.get_tensor_value(size))
    usual = not (corners and (1 in list(new) or not linear))
    if usual and (linear or not centers):
        return (importer.convert_resize_bilinear if linear else importer.convert_resize_nearest_neighbor)(op)
    expr = importer.get_tensor_expr(data)
    for axis, (rows, wanted) in enumerate(zip(map(int, old), map(int, new), strict=True), 1):
        places = resize_places(rows, wanted, corners=corners, centers=centers)
        if not linear:
            nearest = np.floor(places + np.float32(0.5)) if corners else np.floor(places)
            expr = _taken(expr, axis, np.clip(nearest, 0, rows - 1))
        else:
            low = np.clip(np.floor(places).astype(np.int64), 0, rows - 1)
            share, high = places - low, np.minimum(low + 1, rows - 1)
            matrix = np.zeros((wanted, rows), np.float32)
            np.add.at(matrix, (np.arange(wanted), low), 1 - share)
            np.add.at(matrix, (np.arange(wanted), high), share)
            expr = along(expr, axis, 4, matrix)
    return expr


def resize_places(rows: int, wanted: int, *, corners: bool, centers: bool) -> npt.NDArray[np.float32]:
    """float32[wanted]: where along an axis of `rows` the results lie, before rounding; the nearest: `floor` of it."""
    scale = np.float32((rows - 1) / (wanted - 1) if corners and wanted > 1 else rows / wanted)
    places = np.arange(wanted, dtype=np.float32) + np.float32(0.5 if centers else 0)
    return (places * scale).astype(np.float32)


def gather(importer: Any, op: Any) -> Any:
    """The first `batch_dims` axes of indices belong to those of the data."""
    data, indices = importer.get_input_tensors(op)
    options = options_of(op, tflite.GatherOptions)
    batch, axis = (0, 0) if options is None else (int(options.BatchDims()), int(options.Axis()))
    expr, where = importer.get_tensor_expr(data), importer.get_tensor_expr(indices)
    shape, picked = ([int(n) for n in importer.get_tensor_shape(t)] for t in (data, indices))
    axis, batch = axis % len(shape), batch % (len(picked) + 1) if batch < 0 else batch
    if not batch:
        return relax.op.take(expr, where, axis=axis, mode="clip")
    batches, outer, inner, picks = math.prod(shape[:batch]), shape[batch:axis], shape[axis + 1 :], picked[batch:]
    flat = relax.op.reshape(expr, [batches, math.prod(outer), shape[axis], math.prod(inner)])
    flat = relax.op.permute_dims(flat, [0, 2, 1, 3])
    flat = relax.op.reshape(flat, [batches * shape[axis], math.prod(outer) * math.prod(inner)])
    first = relax.const(np.arange(batches, dtype=np.int64)[:, None] * shape[axis], "int64")
    numbers = relax.op.clip(relax.op.astype(where, "int64"), 0, shape[axis] - 1)
    numbers = relax.op.add(relax.op.reshape(numbers, [batches, math.prod(picks)]), first)
    rows = relax.op.take(flat, relax.op.reshape(numbers, [batches * math.prod(picks)]), axis=0, mode="clip")
    rows = relax.op.reshape(rows, [batches, math.prod(picks), math.prod(outer), math.prod(inner)])
    return relax.op.reshape(relax.op.permute_dims(rows, [0, 2, 1, 3]), [*shape[:batch], *outer, *picks, *inner])


def gather_nd(importer: Any, op: Any) -> Any:
    """Rows of the data's first axes together, by one number each."""
    data, indices = importer.get_input_tensors(op)
    expr, where = importer.get_tensor_expr(data), importer.get_tensor_expr(indices)
    shape, picked = ([int(n) for n in importer.get_tensor_shape(t)] for t in (data, indices))
    deep = picked[-1]
    steps = np.array([math.prod(shape[i + 1 : deep]) for i in range(deep)], np.int64)
    numbers = relax.op.sum(relax.op.multiply(relax.op.astype(where, "int64"), relax.const(steps, "int64")), axis=-1)
    rows = relax.op.reshape(expr, [math.prod(shape[:deep]), *shape[deep:]])
    return relax.op.take(rows, numbers, axis=0, mode="clip")


def scatter_nd(importer: Any, op: Any) -> Any:
    """Updates of one place add up."""
    indices, updates, size = importer.get_input_tensors(op)
    shape = [int(n) for n in np.ravel(importer.get_tensor_value(size))]
    where = relax.op.astype(importer.get_tensor_expr(indices), "int64")
    dtype = importer.get_tensor_type_str(importer.get_output_tensors(op)[0].tensor.Type())
    return relax.op.scatter_nd(relax.op.zeros(shape, dtype), where, importer.get_tensor_expr(updates), "add")


def batch_to_space(importer: Any, op: Any) -> Any:
    data, blocks, crops = importer.get_input_tensors(op)
    block = [int(n) for n in np.ravel(importer.get_tensor_value(blocks))]
    cut = np.asarray(importer.get_tensor_value(crops)).reshape(len(block), 2).tolist()
    shape, deep = [int(n) for n in importer.get_tensor_shape(data)], len(block)
    batch = shape[0] // math.prod(block)
    expr = relax.op.reshape(importer.get_tensor_expr(data), [*block, batch, *shape[1:]])
    pairs = itertools.chain.from_iterable((deep + 1 + i, i) for i in range(deep))
    expr = relax.op.permute_dims(expr, [deep, *pairs, *range(2 * deep + 1, deep + len(shape))])
    wide = [n * b for n, b in zip(shape[1:], block, strict=False)]
    expr = relax.op.reshape(expr, [batch, *wide, *shape[1 + deep :]])
    ends = [n - behind for n, (_, behind) in zip(wide, cut, strict=True)]
    return relax.op.strided_slice(expr, list(range(1, deep + 1)), [before for before, _ in cut], ends)


def space_to_batch(importer: Any, op: Any) -> Any:
    data, blocks, paddings = importer.get_input_tensors(op)
    block = [int(n) for n in np.ravel(importer.get_tensor_value(blocks))]
    pads = np.asarray(importer.get_tensor_value(paddings)).reshape(len(block), 2).tolist()
    shape, deep = [int(n) for n in importer.get_tensor_shape(data)], len(block)
    rest = [0, 0] * (len(shape) - deep - 1)
    expr = relax.op.nn.pad(importer.get_tensor_expr(data), [0, 0, *itertools.chain.from_iterable(pads), *rest])
    small = [(n + sum(pad)) // b for n, pad, b in zip(shape[1:], pads, block, strict=False)]
    split = itertools.chain.from_iterable(zip(small, block, strict=True))
    expr = relax.op.reshape(expr, [shape[0], *split, *shape[1 + deep :]])
    inner, outer = ([1 + 2 * i + k for i in range(deep)] for k in (1, 0))
    expr = relax.op.permute_dims(expr, [*inner, 0, *outer, *range(2 * deep + 1, deep + len(shape))])
    return relax.op.reshape(expr, [shape[0] * math.prod(block), *small, *shape[1 + deep :]])
