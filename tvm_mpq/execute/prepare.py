"""From a model in any form to an annotated module and its graph, and where the work is to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import tvm

from tvm_mpq import frontends, targets
from tvm_mpq.execute.own_integers import OwnIntegers, own_integers
from tvm_mpq.frontends.checks import refusing
from tvm_mpq.kernels import OFFERED
from tvm_mpq.passes.annotate import Annotate
from tvm_mpq.passes.graph import Graph, read_graph
from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.schema import Precision
from tvm_mpq.targets import TargetRow

InputSpecs = Mapping[str, tuple[tuple[int, ...], str]]
"""The model's inputs: name -> (shape with the batch axis, dtype)."""


@dataclass(frozen=True)
class Prepared:
    """A network ready for selection. `mod` is normalized and annotated; own: integers of a file quantized elsewhere."""

    loaded: frontends.Loaded
    mod: tvm.IRModule
    graph: Graph
    row: TargetRow
    features: frozenset[str]
    threads: int
    tvm_target_attrs: dict[str, Any]
    own: OwnIntegers = field(default_factory=OwnIntegers)

    @property
    def inputs(self) -> InputSpecs:
        """Name, as the user's model calls it, to shape and dtype."""
        tensors = [self.graph.tensors[n] for n in self.graph.inputs]
        return {name: (t.shape, t.dtype) for name, t in zip(self.loaded.input_names, tensors, strict=True)}

    @property
    def input_map(self) -> dict[str, str]:
        """The model's input names to the graph's tensor names."""
        return dict(zip(self.loaded.input_names, self.graph.inputs, strict=True))

    def by_tensor(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """What is given for the model's inputs, by the graph's tensor names."""
        names = self.input_map
        return {names[n]: x for n, x in arrays.items()}

    def tvm_target(self) -> tvm.target.Target:
        return tvm.target.Target(dict(self.tvm_target_attrs))


def prepare(
    model: Any,
    *,
    target: Any = "local",
    threads: int = 1,
    example_inputs: Any = None,
    batch: int | None = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    offered: Iterable[Precision] = OFFERED,
    requantize: bool = False,
    same_code: bool = False,
) -> Prepared:
    """Load, normalize and annotate with the precisions of `offered` that the target has kernels for.

    same_code: as of `Annotate`. requantize: forget the scales of a file that was quantized elsewhere.

    Raises
    ------
    MissingFileError, UnsupportedModelError, UnknownTargetError
        As `frontends.load_model` and `targets.resolve` do.
    """
    row = targets.resolve(target)
    loaded = frontends.load_model(model, example_inputs=example_inputs, batch=batch, input_shapes=input_shapes)
    return annotated(loaded, row, threads, offered, requantize=requantize, same_code=same_code)


def annotated(
    loaded: frontends.Loaded,
    row: TargetRow,
    threads: int,
    offered: Iterable[Precision],
    *,
    requantize: bool = False,
    same_code: bool = False,
) -> Prepared:
    """An imported network, normalized and annotated for one target. Raises UnsupportedModelError."""
    passes = [Normalize(), Annotate(target=row, threads=threads, offered=offered, same_code=same_code)]
    with refusing(f"{loaded.name} cannot be brought into normal form"):
        mod = tvm.transform.Sequential(passes)(loaded.mod)
        graph = read_graph(mod)
    attrs = targets.to_tvm_attrs(row, threads)
    own = OwnIntegers() if requantize else own_integers(loaded, graph)
    if loaded.stored is not None:
        loaded = replace(loaded, notes=(*loaded.notes, _UNROUNDED, _own_text(own, graph)))
    return Prepared(loaded, mod, graph, row, targets.features(row), threads, attrs, own)


_UNROUNDED = (
    "fp32 leaves out the rounding of the file's activations to integers, and their saturation: where a file saturates, "
    "only 8 bits give its results"
)


def _own_text(own: OwnIntegers, graph: Graph) -> str:
    if not own.digest:
        return "its scales are not used: ranges and integers are found anew"
    weighted, tensors = list(graph.weighted()), graph.integer_tensors()
    return (
        f"at 8 bits the file's own integers are used for the weights of {len(own.codes)} of {len(weighted)} operators, "
        f"its ranges for {sum(t in own.ranges for t in tensors)} of {len(tensors)} tensors; --requantize finds others"
    )
