"""ONNX networks that were quantized elsewhere, as the float networks they stand for, and the numbers they carry.

before  QuantizeLinear -> DequantizeLinear around float operators (QDQ), or QLinearConv and its like (QOperator),
        DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul
after   the float operators, weights as float constants of exactly the values their integers stand for; which tensors
        were rounded to bytes, and how, in `StoredQuantization`

Integers that leave the network, or that an operator unknown here reads, are still made, by float arithmetic.

In one file: the forms of a quantized file share what they record and how they turn back to floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_mpq.errors import MPQError, UnsupportedModelError
from tvm_mpq.frontends.onnx_affine import Affine, RealArray
from tvm_mpq.schema import StoredQuantization

MICROSOFT = "com.microsoft"

_SAME_VALUES = frozenset(
    ["Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "ReduceMax"]
    + ["Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)
"""Operators whose results hold values of their operands: integers of the same meaning."""


_OF_BOTH_SIGNS = frozenset(["Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Sub"])
"""Operators whose results no quantizer takes for non-negative, unless an activation behind them makes them so."""


def dequantized(model: onnx.ModelProto, what: str) -> StoredQuantization | None:
    """Rewrite the graph in place; None, and nothing is done, where it holds no quantized operator.

    Names in the result are those of the graph's tensors; weights go by the name of their float constant.

    Raises
    ------
    UnsupportedModelError
        If scales are not constant, or integers of a scale chosen at run time go where only a scale fixed before could.
    """
    from tvm_mpq.frontends.onnx_qoperators import CONVERTERS, QUANTIZED

    if not any(_key(node) in QUANTIZED for node in model.graph.node):
        return None
    reader = IntegerReader(model, what, lambda node: _key(node) in QUANTIZED)
    for node in model.graph.node:
        convert = CONVERTERS.get(_key(node))
        try:
            if convert is None or not convert(reader, node):
                reader.keep(node)
        except (IndexError, ValueError) as e:
            if isinstance(e, MPQError):
                raise
            name = node.name or (node.output[0] if node.output else "")
            raise UnsupportedModelError(
                f"{what}: {node.op_type} (node {name!r}) lacks inputs, or they do not fit"
            ) from e
    reader.finish()
    return reader.stored


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


class IntegerReader:
    """The graph as it is rewritten: what each integer tensor stands for, and what each dropped tensor equals."""

    def __init__(self, model: onnx.ModelProto, what: str, is_quantized: Callable[[onnx.NodeProto], bool]) -> None:
        self.stored = StoredQuantization()
        self._graph, self._what = model.graph, what
        graph = model.graph
        self._opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._nodes: list[onnx.NodeProto] = []
        self._constants = {t.name: t for t in graph.initializer}
        self._taken = {n for node in graph.node for n in (*node.input, *node.output)} | set(self._constants)
        self._taken |= {i.name for i in graph.input}
        self.sums: dict[str, str] = {}  # results of integer products, whose scale is 1, and their real tensors
        self._reals: dict[str, tuple[str, Affine]] = {}
        self._rounded: set[str] = set()  # integers that were made
        self._same: dict[str, str] = {}
        self._dynamic: set[str] = set()
        self._differ: set[str] = set()
        self._makers: dict[str, str] = {}  # tensor -> operator
        self._made: dict[tuple[str, bytes], str] = {}
        self._codes: dict[str, np.ndarray] = {}
        self._read_as_integers = {n for node in graph.node if not is_quantized(node) for n in _names_read(node)}
        self._read_as_integers |= {o.name for o in graph.output}

    def keep(self, node: onnx.NodeProto) -> None:
        """An operator that computes with reals, moves integers, or must be given integers."""
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            self._constants[node.output[0]] = node.attribute[0].t
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        operands = [n for n in node.input if n in self._reals]
        moved = bool(operands) and node.op_type in _SAME_VALUES and node.input[0] in self._reals
        if moved and all(n in self._reals for n in (node.input if node.op_type == "Concat" else node.input[:1])):
            affine = self._reals[node.input[0]][1]
            if affine.scale.size == 1 and all(self._reals[n][1].equals(affine) for n in operands):
                copy.input[:] = [self._reals[n][0] if n in self._reals else self.real_name(n) for n in node.input]
                copy.output[:] = [self._fresh(f"{n}_real") if n else "" for n in node.output]
                self._nodes.append(copy)
                for name, real in zip(node.output, copy.output, strict=True):
                    if name:
                        self.stands_for(name, real, affine)
                return
        for name in _names_read(node):
            if name in self.sums:
                raise UnsupportedModelError(
                    f"{self._what}: {node.op_type} (node {node.name or node.output[0]!r}) reads sums of integers "
                    "before they are scaled, which is not supported; give the float32 model"
                )
            if name in self._reals:
                self.integers(name)
        copy.input[:] = [self.real_name(n) for n in node.input]
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            for name in _names_read(node):
                if name in self._same:
                    self.add("Identity", [self._same.pop(name)], name)
        self._nodes.append(copy)
        self._makers.update((n, node.op_type) for n in node.output)

    def finish(self) -> None:
        """Results of the network have their names and types, and the graph its new nodes."""
        for output in self._graph.output:
            if output.name in self._reals:
                self.integers(output.name)
            elif output.name in self._same:
                self.add("Identity", [self._same[output.name]], output.name)
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        made = {n for node in self._nodes for n in node.output}
        self._graph.initializer.extend(t for n, t in self._constants.items() if n not in made)

    def add(self, op_type: str, inputs: Sequence[str], output: str, node: onnx.NodeProto | None = None) -> str:
        """A standard operator, with name and attributes of `node`; returns `output`."""
        made = helper.make_node(op_type, list(inputs), [output], name=node.name if node is not None else "")
        if node is not None:
            made.attribute.extend(node.attribute)
        self._nodes.append(made)
        self._makers[output] = op_type
        return output

    def result(self, node: onnx.NodeProto) -> str:
        """A name for the real tensor behind the integers that `node` gives."""
        return self._fresh(f"{node.output[0]}_real")

    def real_name(self, name: str) -> str:
        """The tensor that has the values of `name`."""
        return self._same.get(name, name)

    def equate(self, name: str, real: str) -> None:
        self._same[name] = real

    def stands_for(self, name: str, real: str, affine: Affine) -> None:
        """Integers `name` are `real`, rounded, and cut to the type's range.

        Quantizers leave a Relu (or a clip at 6) out where integers end at zero anyway; it is put back as a Clip.
        """
        limits = np.iinfo(affine.dtype)
        if affine.scale.size == 1 and affine.zero.item() == limits.min and self._makers.get(real) in _OF_BOTH_SIGNS:
            real = self._clip(real, float(affine.scale.item() * (limits.max - limits.min)))
        self._reals[name] = (real, affine)
        self._note(real, affine)

    def _clip(self, real: str, high: float) -> str:
        """At 0 and `high`."""
        clipped = self._fresh(f"{real}_clipped")
        if self._opset < 11:
            self.add("Clip", [real], clipped)
            self._nodes[-1].attribute.extend([helper.make_attribute("min", 0.0), helper.make_attribute("max", high)])
            return clipped
        bounds = [self.hold(f"{real}_{n}", np.array(v, np.float32)) for n, v in (("low", 0.0), ("high", high))]
        return self.add("Clip", [real, *bounds], clipped)

    def affine(self, node: onnx.NodeProto, scale: str, zero: str, axis: int = 1, block: int = 0) -> Affine:
        """From the names of constants; the type is that of the zero."""
        scales, zeros = self.constant(scale), self.constant(zero) if zero else None
        if scales is None or (zero and zeros is None):
            raise UnsupportedModelError(
                f"{self._what}: scales of {node.op_type} (node {node.name or node.output[0]!r}) are computed when the "
                "network runs; quantize it with constant scales, or give the float32 model"
            )
        dtype = "uint8" if zeros is None else str(zeros.dtype)
        if "int" not in dtype:
            raise UnsupportedModelError(f"{self._what}: {dtype} numbers are not supported; give the float32 model")
        whole = np.zeros(scales.shape, np.int32) if zeros is None else zeros.astype(np.int32)
        return Affine(scales.astype(np.float32), np.broadcast_to(whole, scales.shape), dtype, axis, block)

    def constant(self, name: str) -> np.ndarray | None:
        tensor = self._constants.get(self.real_name(name))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def hold(self, wanted: str, value: np.ndarray) -> str:
        """A new constant; returns its name. One of the same name and value is used again."""
        key = (wanted, value.tobytes())
        if key not in self._made:
            name = self._made[key] = self._fresh(wanted)
            self.replace_constant(name, value)
        return self._made[key]

    def replace_constant(self, name: str, value: np.ndarray) -> None:
        """The tensor of this name, new or not, has this value."""
        self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)

    def real(self, name: str, affine: Affine, output: str | None = None) -> str:
        """The real tensor that integers `name` stand for, whatever made them."""
        if name in self._reals:
            real, made_with = self._reals[name]
            if affine.equals(made_with):
                return real
            self.integers(name)
        codes = self._codes.get(name)
        if codes is None:
            codes = self.constant(name)
        if codes is not None:
            self._codes[name] = codes
            if name not in self._read_as_integers:
                self._taken.discard(name)  # the reals take its place
            held = self.hold(_weight_name(name), affine.reals(codes))
            if affine.symmetric and codes.ndim > 1:
                self.stored.weights[held] = tuple(map(float, affine.scale.reshape(-1)))
            return held
        rank_free = affine.scale.size == 1
        if not rank_free:
            raise UnsupportedModelError(f"{self._what}: integers {name!r} have several scales and are not constant")
        scale, zero = affine.scale.reshape(()), affine.zero.reshape(())
        wide = self.add("Cast", [name], self._fresh(f"{name}_wide"))
        self._nodes[-1].attribute.append(helper.make_attribute("to", onnx.TensorProto.FLOAT))
        moved = self.add(
            "Sub", [wide, self.hold(f"{name}_zero", zero.astype(np.float32))], self._fresh(f"{name}_moved")
        )
        real = self.add("Mul", [moved, self.hold(f"{name}_scale", scale)], output or self._fresh(f"{name}_real"))
        self._note(real, affine)
        return real

    def integers(self, name: str) -> None:
        """Make the integers themselves, under their name."""
        real, affine = self._reals[name]
        if name in self._rounded:
            return
        self._rounded.add(name)
        if name in self._dynamic:
            raise UnsupportedModelError(
                f"{self._what}: integers {name!r} of a scale chosen at run time are read by an operator other than "
                "MatMulInteger and ConvInteger; give the float32 model"
            )
        if affine.scale.size > 1:
            raise UnsupportedModelError(
                f"{self._what}: activations {name!r} have several scales; give the float32 model"
            )
        scale, zero = affine.scale.reshape(()), affine.zero.reshape(())
        limits = np.iinfo(affine.dtype)
        value = self.add("Div", [real, self.hold(f"{name}_scale", scale)], self._fresh(f"{name}_steps"))
        value = self.add("Round", [value], self._fresh(f"{name}_rounded"))
        value = self.add(
            "Add", [value, self.hold(f"{name}_zero", zero.astype(np.float32))], self._fresh(f"{name}_moved")
        )
        for op_type, bound in (("Max", limits.min), ("Min", limits.max)):
            held = self.hold(f"{name}_{op_type.lower()}", np.array(bound, np.float32))
            value = self.add(op_type, [value, held], self._fresh(f"{name}_{op_type.lower()}"))
        self.add("Cast", [value], name)
        to = helper.np_dtype_to_tensor_dtype(np.dtype(affine.dtype))
        self._nodes[-1].attribute.append(helper.make_attribute("to", to))

    def is_dynamic(self, name: str) -> bool:
        return name in self._dynamic

    def make_dynamic(self, name: str, real: str, scale: str, zero: str) -> None:
        """Integers of a scale chosen at run time: the reals themselves, in steps of 1."""
        self.replace_constant(scale, np.array(1, np.float32))
        self.replace_constant(zero, np.array(0, np.uint8))
        self._reals[name] = (real, Affine(np.array(1, np.float32), np.array(0, np.int32), "uint8"))
        self._dynamic.add(name)

    def _note(self, real: str, affine: Affine) -> None:
        """Of a tensor that is rounded in two ways, neither is kept."""
        quant = affine.tensor_quant
        if quant is None or real in self._differ:
            return
        if self.stored.tensors.setdefault(real, quant) != quant:
            self._differ.add(real)
            del self.stored.tensors[real]

    def _fresh(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self._taken:
            name, n = f"{wanted}_{n}", n + 1
        self._taken.add(name)
        return name


Convert = Callable[[IntegerReader, onnx.NodeProto], bool]
"""Rewrites a node; False when it is to be kept as it is."""


def _weight_name(name: str) -> str:
    """`conv1.weight` of `conv1.weight_quantized`."""
    return re.sub(r"(_quantized|_qint8|_q)$", "", name)


def _names_read(node: onnx.NodeProto) -> list[str]:
    found = [n for n in node.input if n]
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            found += [n for inner in a.g.node for n in _names_read(inner)] + [o.name for o in a.g.output]
    return found


def quantized_constant(reader: IntegerReader, reals: RealArray, affine: Affine, name: str) -> None:
    """A weight that the graph itself rounds: its integers become a constant."""
    reader.replace_constant(name, affine.codes(reals).astype(affine.dtype))
