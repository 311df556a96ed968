"""Seeded damage for `fuzz.py`: bytes, JSON trees, ONNX graphs, FlatBuffers' words, zip archives."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

EXTREMES = (0, -1, 1, 2, -(2**31), 2**31 - 1, 2**31, 2**62, -(2**63), 2**63 - 1, 10**9, 255)
TEXTS = ("", "\0", "a" * 5000, "\u202e\n\x1b[31m", "../../etc/passwd", "nan", "w4a8", "x", "None", "-1")
VALUES: tuple[Any, ...] = (None, True, [], {}, [[]], 1e308, -1e308, float("nan"), float("inf"), 0.5, *EXTREMES, *TEXTS)
ATTRIBUTES = ("axis", "axes", "pads", "strides", "kernel_shape", "group", "perm", "dilations", "alpha", "to", "value")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes or bits changed, a piece cut out, doubled or moved, or the end cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(found) + 1)
        length = min(rng.choice((1, 2, 4, 8, 64)), max(1, len(found) - at))
        kind = rng.randrange(7)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            found[at : at + 4] = struct.pack("<q", rng.choice(EXTREMES))[:4]
        elif kind == 5 and rng.random() < 0.3:
            del found[at:]
        else:
            found[at : at + length] = bytes(length)
    return bytes(found)


def mutate_words(data: bytes, rng: random.Random) -> bytes:
    """Of a FlatBuffer: offsets, lengths, types and sizes are words in place; a part of the cases damages bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        width = rng.choice((1, 2, 4, 4, 4))
        at = rng.randrange(0, len(found) - width, width)
        old = int.from_bytes(found[at : at + width], "little")
        new = rng.choice((old + 1, old - 1, old + 4, old * 2, rng.choice(EXTREMES), rng.randrange(64)))
        found[at : at + width] = (new % 256**width).to_bytes(width, "little")
    return bytes(found)


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Values, keys and lists of a tree changed; a part of the cases damages bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(text, rng)
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holder, key = rng.choice(_places(tree))
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 3:
            other, there = rng.choice(_places(tree))
            holder[key] = copy.deepcopy(other[there])
        elif kind == 4 and rng.random() < 0.05:
            for _ in range(5000):
                holder[key] = [holder[key]]
            return _deep(tree)
        else:
            holder[key] = rng.choice(VALUES)
        if not _places(tree):
            break
    return json.dumps(tree).encode()


def _deep(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode()
    except RecursionError:
        return b"[" * 100_000


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(holder, key or index) of every value."""
    found: list[tuple[Any, Any]] = []
    open_ = [tree]
    while open_:
        holder = open_.pop()
        if isinstance(holder, (dict, list)):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            open_ += [holder[key] for key in keys]
    return found


def mutate_onnx(data: bytes, rng: random.Random) -> bytes:
    """Nodes, attributes, types, sizes, weights and edges of a graph changed; a part of the cases damages bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        change = rng.choice(_ONNX)
        try:
            change(model, rng)
        except (IndexError, ValueError, TypeError):  # nothing there to change, or not so
            continue
    return model.SerializeToString()


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    names = [schema.name for schema in onnx.defs.get_all_schemas()]
    rng.choice(model.graph.node).op_type = rng.choice([*names, "", "Nothing"])


def _edge(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    tensors = [name for n in model.graph.node for name in (*n.input, *n.output)]
    ends = rng.choice((node.input, node.output))
    kind = rng.randrange(4)
    if kind == 0:
        del ends[rng.randrange(len(ends))]
    elif kind == 1:
        ends.append(rng.choice([*tensors, "", "nowhere"]))
    else:
        ends[rng.randrange(len(ends))] = rng.choice([*tensors, "", "nowhere"])


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    if node.attribute and rng.random() < 0.7:
        attribute = rng.choice(node.attribute)
        if attribute.ints and rng.random() < 0.8:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREMES)
            if rng.random() < 0.3:
                attribute.ints.append(rng.choice(EXTREMES))
        elif rng.random() < 0.5:
            attribute.i = rng.choice(EXTREMES)
            attribute.type = rng.choice((attribute.type, onnx.AttributeProto.INT, onnx.AttributeProto.STRING))
        else:
            node.attribute.remove(attribute)
        return
    value = rng.choice((rng.choice(EXTREMES[:8]), [1, -1], "text", 0.5, [rng.randrange(4) for _ in range(4)]))
    node.attribute.append(helper.make_attribute(rng.choice(ATTRIBUTES), value))


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    kind = rng.randrange(4)
    if kind == 0:
        del nodes[rng.randrange(len(nodes))]
    elif kind == 1:
        nodes.append(rng.choice(nodes))
    elif kind == 2:
        some = list(nodes)
        rng.shuffle(some)
        del nodes[:]
        nodes.extend(some)
    else:
        rng.choice(nodes).domain = rng.choice(("com.microsoft", "ai.onnx.ml", "x"))


def _weight(model: onnx.ModelProto, rng: random.Random) -> None:
    weights = model.graph.initializer
    weight = rng.choice(weights)
    kind = rng.randrange(6)
    if kind == 0:
        weight.dims[rng.randrange(len(weight.dims))] = rng.choice(EXTREMES)
    elif kind == 1:
        weight.data_type = rng.randrange(24)
    elif kind == 2:
        weight.raw_data = weight.raw_data[: rng.randrange(len(weight.raw_data) + 1)]
    elif kind == 3:
        weight.data_location = onnx.TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", rng.choice(("/etc/passwd", "../x", "case.onnx", ""))
    elif kind == 4:
        weights.remove(weight)
    else:
        values = np.frombuffer(weight.raw_data, np.float32).copy()
        values[rng.randrange(len(values))] = rng.choice((np.nan, np.inf, 3e38, 1e-45))
        weight.raw_data = values.tobytes()


def _shape(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    kind = rng.randrange(4)
    if kind == 0:
        tensor.elem_type = rng.randrange(24)
    elif kind == 1:
        rng.choice(tensor.shape.dim).dim_param = rng.choice(("N", ""))
    elif kind == 2:
        tensor.shape.dim.add().dim_value = rng.choice(EXTREMES)
    else:
        rng.choice(tensor.shape.dim).dim_value = rng.choice((0, 1, 3, 7, 1024, *EXTREMES))


def _header(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 6, 9, 13, 21, 99, *EXTREMES))
    elif kind == 1:
        model.ir_version = rng.choice((0, 3, 99))
    elif kind == 2:
        del model.graph.output[:]
    else:
        model.graph.output.append(rng.choice([*model.graph.input, *model.graph.output]))


_ONNX: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(_operator, _edge, _edge, _attribute, _attribute, _node, _weight, _weight, _shape, _header),
)


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Arrays' headers and values changed in an archive that is sound again; or its bytes damaged."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    kind = rng.randrange(6)
    if kind == 0:
        members[name] = mutate_bytes(members[name], rng)
    elif kind == 1:
        members[name] = _array_file(rng)
    elif kind == 2:
        members[rng.choice(("../x.npy", "x", "labels.npy", "\n.npy", "a" * 300 + ".npy"))] = members[name]
    elif kind == 3:
        del members[name]
    elif kind == 4:  # a header that claims what is not there
        shape = tuple(rng.choice((-1, 0, 3, 10**6, 10**12)) for _ in range(rng.randrange(5)))
        members[name] = _claimed(shape, rng.choice(("<f4", "|O", "<U9", "|V0", "<c16", "<M8[s]")))
    else:
        members[name] = members[name] + bytes(rng.choice((1, 10_000_000)))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for member, content in members.items():
            made.writestr(member, content)
    return stream.getvalue()


def _array_file(rng: random.Random) -> bytes:
    """An array of another type or shape, pickled objects among them."""
    arrays = (
        np.array([{"a": 1}], object),
        np.zeros((2, 3), np.complex64),
        np.zeros(0, np.float32),
        np.array("text"),
        np.zeros((1,) * 40, np.float32) if int(np.__version__.split(".")[0]) >= 2 else np.zeros(1),
        np.full((8, 3, 6, 6), np.nan, np.float32),
        np.zeros((8, 3, 6, 6), ">f4"),
        np.asfortranarray(np.ones((8, 3, 6, 6), np.float32)),
    )
    stream = io.BytesIO()
    np.save(stream, rng.choice(arrays), allow_pickle=True)
    return stream.getvalue()


def _claimed(shape: tuple[int, ...], dtype: str) -> bytes:
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)
