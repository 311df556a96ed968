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
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_mpq.errors import MPQError, UnsupportedModelError
from tvm_mpq.frontends.onnx_affine import Affine, RealArray
from tvm_mpq.frontends.onnx_fold import evaluated
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
        self.opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._nodes: list[onnx.NodeProto] = []
        self._constants = {t.name: t for t in graph.initializer}
        self._taken = {n for node in graph.node for n in (*node.input, *node.output)} | set(self._constants)
        self._taken |= {i.name for i in graph.input}
        self._given = {i.name: _type_name(i.type.tensor_type.elem_type) for i in graph.input}
        self.sums: dict[str, str] = {}  # results of integer products, whose scale is 1, and their real tensors
        self._reals: dict[str, tuple[str, Affine]] = {}
        self._rounded: set[str] = set()  # integers that were made
        self._same: dict[str, str] = {}
        self._ends: dict[str, Affine] = {}  # real tensor -> the range that its integers had
        self._clipped: set[str] = set()
        self._dynamic: dict[str, tuple[str, str]] = {}  # integers of a scale chosen at run time, and scale and zero
        self._powers: dict[str, dict[str, int]] = {}  # tensor -> powers of such scales, by which it is not what it was
        self._differ: set[str] = set()
        self._makers: dict[str, str] = {}  # tensor -> operator
        self._foldable: dict[str, onnx.NodeProto] = {}  # tensor -> the operator that makes it of constants
        self._made: dict[tuple[str, bytes], str] = {}
        self._codes: dict[str, np.ndarray] = {}
        self._read_as_integers = {n for node in graph.node if not is_quantized(node) for n in _names_read(node)}
        self._read_as_integers |= {o.name for o in graph.output}

    def keep(self, node: onnx.NodeProto) -> None:
        """An operator that computes with reals, moves integers, or must be given integers."""
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
        powers = self._multiplied(node)
        copy.input[:] = [self._same.get(n, n) for n in node.input]
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            for name in _names_read(node):
                if name in self._same:
                    self.add("Identity", [self._same.pop(name)], name)
        self._nodes.append(copy)
        self._makers.update((n, node.op_type) for n in node.output)
        if powers:
            self._powers.update((n, powers) for n in node.output)
        elif all(n in self._constants or n in self._foldable for n in filter(None, copy.input)):
            self._foldable.update((n, copy) for n in node.output)

    def _multiplied(self, node: onnx.NodeProto) -> dict[str, int]:
        """Powers of run-time scales by which the results of a kept operator are not what they were."""
        read = {n: self._powers[n] for n in _names_read(node) if n in self._powers}
        moves = node.op_type in _SAME_VALUES and node.op_type != "Concat" and set(read) == {node.input[0]}
        if read and node.op_type != "Mul" and not moves:
            raise self._unscaled(f"{node.op_type} (node {node.name or node.output[0]!r}) reads")
        total = Counter[str]()
        for name in node.input:
            total.update(read.get(name, {}))
        return {name: power for name, power in total.items() if power}

    def _unscaled(self, who: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._what}: {who} numbers of a scale that is chosen at run time before they are multiplied by it, or "
            "the scale itself, which is not supported; give the float32 model"
        )

    def finish(self) -> None:
        """Results of the network have their names and types, and the graph its new nodes."""
        for output in self._graph.output:
            if output.name in self._powers:
                raise self._unscaled(f"result {output.name!r} holds")
            if output.name in self._reals:
                self.integers(output.name)
            elif output.name in self._ends and self._same[output.name] not in self._clipped:
                self._clip(self._same[output.name], self._ends[output.name], output.name)
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
        if name in self._powers:
            raise self._unscaled("a quantized operator reads")
        return self._same.get(name, name)

    def equate(self, name: str, real: str) -> None:
        self._same[name] = real

    def dequantize(self, name: str, integers: str, affine: Affine) -> None:
        """`name` is what the integers stand for; as a result of the network, with their saturation, which no reader of
        its own brings."""
        self._same[name] = self.real(integers, affine)
        if integers in self._reals and integers not in self._dynamic and affine.scale.size == 1:
            self._ends[name] = affine

    def stands_for(self, name: str, real: str, affine: Affine) -> None:
        """Integers `name` are `real`, rounded, and cut to the type's range.

        Quantizers leave a Relu (or a clip at 6) out where integers end at zero anyway; it is put back as a Clip.
        """
        ends_at_zero = affine.scale.size == 1 and affine.zero.item() == affine.limits[0]
        if ends_at_zero and self._makers.get(real) in _OF_BOTH_SIGNS:
            real = self._clip(real, affine)
        self._reals[name] = (real, affine)
        self._note(real, affine)

    def _clip(self, real: str, affine: Affine, output: str = "") -> str:
        """At the ends of the integers' range."""
        clipped = output or self._fresh(f"{real}_clipped")
        self._clipped.add(clipped)
        low, high = (float(affine.scale.item() * (end - affine.zero.item())) for end in affine.limits)
        if self.opset < 11:
            self.add("Clip", [real], clipped)
            self._nodes[-1].attribute.extend([helper.make_attribute("min", low), helper.make_attribute("max", high)])
            return clipped
        bounds = [self.hold(f"{real}_{n}", np.array(v, np.float32)) for n, v in (("low", low), ("high", high))]
        return self.add("Clip", [real, *bounds], clipped)

    def _type_of(self, integers: str) -> str:
        """The name of their type; int32, which claims least, where it is not known."""
        if integers in self._reals:
            return self._reals[integers][1].dtype
        codes = self._codes.get(integers, self.constant(integers))
        return self._given.get(integers, "int32") if codes is None else str(codes.dtype)

    def affine(
        self,
        node: onnx.NodeProto,
        scale: str,
        zero: str,
        axis: int = 1,
        block: int = 0,
        *,
        of: str = "",
        dtype: str = "",
    ) -> Affine:
        """From the names of constants; where there is no zero, the type is `dtype`, or that of the integers `of`."""
        if of in self._dynamic and self._dynamic[of] == (scale, zero):
            return self._reals[of][1]
        scales, zeros = self.constant(scale), self.constant(zero) if zero else None
        if scales is None or (zero and zeros is None):
            raise UnsupportedModelError(
                f"{self._what}: scales of {node.op_type} (node {node.name or node.output[0]!r}) are computed when the "
                "network runs; quantize it with constant scales, or give the float32 model"
            )
        dtype = (dtype or self._type_of(of)) if zeros is None else str(zeros.dtype)
        if "int" not in dtype:
            raise UnsupportedModelError(f"{self._what}: {dtype} numbers are not supported; give the float32 model")
        whole = np.zeros(scales.shape, np.int32) if zeros is None else zeros.astype(np.int32)
        return Affine(scales.astype(np.float32), np.broadcast_to(whole, scales.shape), dtype, axis, block)

    def constant(self, name: str) -> np.ndarray | None:
        if name in self._powers:
            return None
        tensor = self._constants.get(self.real_name(name)) or self._folded(self.real_name(name))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _folded(self, name: str) -> onnx.TensorProto | None:
        """What a kept operator gives that reads nothing but constants."""
        node = self._foldable.pop(name, None)
        if node is None or any(self.constant(n) is None for n in filter(None, node.input)):
            return None
        results = evaluated(node, self._constants, self.opset) or {}
        self._constants.update((n, numpy_helper.from_array(value, n)) for n, value in results.items())
        return self._constants.get(name)

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
            if affine is made_with or (name not in self._dynamic and affine.equals(made_with)):
                return real
            self.integers(name)
        codes = self._codes.get(name)
        if codes is None and (codes := self.constant(name)) is not None:
            self._codes[name] = codes
            if name not in self._read_as_integers and name not in self._makers:
                self._taken.discard(name)  # the first reals take its place
        if codes is not None:
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
        self._note(wide, Affine(np.array(1, np.float32), np.array(0, np.int32), affine.dtype))
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
        value = self.add("Div", [real, self.hold(f"{name}_scale", scale)], self._fresh(f"{name}_steps"))
        value = self.add("Round", [value], self._fresh(f"{name}_rounded"))
        value = self.add(
            "Add", [value, self.hold(f"{name}_zero", zero.astype(np.float32))], self._fresh(f"{name}_moved")
        )
        for op_type, bound in zip(("Max", "Min"), affine.limits, strict=True):
            held = self.hold(f"{name}_{op_type.lower()}", np.array(bound, np.float32))
            value = self.add(op_type, [value, held], self._fresh(f"{name}_{op_type.lower()}"))
        self.add("Cast", [value], name)
        self._nodes[-1].attribute.append(helper.make_attribute("to", affine.element_type))

    def scale_chosen_for(self, name: str) -> str | None:
        """The name of the scale of integers `name` where that is chosen at run time."""
        return self._dynamic[name][0] if name in self._dynamic else None

    def add_sums(self, name: str, real: str, operands: Sequence[str]) -> None:
        """Products of integers `operands` add up to `name`: the tensor `real`, over the scales chosen at run time."""
        self.sums[name] = real
        powers = Counter(self._dynamic[operand][0] for operand in operands if operand in self._dynamic)
        self._powers[name] = {scale: -power for scale, power in powers.items()}

    def cast_sums(self, name: str, output: str) -> None:
        """Sums as floats: they are that already."""
        self._same[output], self._powers[output] = self.sums[name], self._powers[name]

    def make_dynamic(self, name: str, real: str, scale: str, zero: str) -> None:
        """Integers of a scale chosen at run time: the reals themselves, in steps of 1."""
        self.replace_constant(scale, np.array(1, np.float32))
        self.replace_constant(zero, np.array(0, np.uint8))
        self._reals[name] = (real, Affine(np.array(1, np.float32), np.array(0, np.int32), "uint8"))
        self._dynamic[name] = scale, zero
        self._powers |= {scale: {scale: 1}, zero: {zero: 1}}

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


def _type_name(element_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(element_type)).lower()


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
    reader.replace_constant(name, affine.codes(reals).astype(helper.tensor_dtype_to_np_dtype(affine.element_type)))
