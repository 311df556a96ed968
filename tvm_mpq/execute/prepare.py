"""From a model in any form to an annotated module and its graph, and where the work is to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from tvm_mpq import frontends, targets
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
    """A network ready for selection. `mod` is normalized and annotated."""

    loaded: frontends.Loaded
    mod: tvm.IRModule
    graph: Graph
    row: TargetRow
    features: frozenset[str]
    threads: int
    tvm_target_attrs: dict[str, Any]

    @property
    def inputs(self) -> InputSpecs:
        """Name, as the user's model calls it, to shape and dtype."""
        tensors = [self.graph.tensors[n] for n in self.graph.inputs]
        return {name: (t.shape, t.dtype) for name, t in zip(self.loaded.input_names, tensors, strict=True)}

    @property
    def input_map(self) -> dict[str, str]:
        """The model's input names to the graph's tensor names."""
        return dict(zip(self.loaded.input_names, self.graph.inputs, strict=True))

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
) -> Prepared:
    """Load, normalize and annotate with the precisions of `offered` that the target has kernels for.

    Raises
    ------
    MissingFileError, UnsupportedModelError, UnknownTargetError
        As `frontends.load_model` and `targets.resolve` do.
    """
    row = targets.resolve(target)
    loaded = frontends.load_model(model, example_inputs=example_inputs, batch=batch, input_shapes=input_shapes)
    return annotated(loaded, row, threads, offered)


def annotated(loaded: frontends.Loaded, row: TargetRow, threads: int, offered: Iterable[Precision]) -> Prepared:
    """An imported network, normalized and annotated for one target."""
    passes = [Normalize(), Annotate(target=row, threads=threads, offered=offered)]
    mod = tvm.transform.Sequential(passes)(loaded.mod)
    attrs = targets.to_tvm_attrs(row, threads)
    return Prepared(loaded, mod, read_graph(mod), row, targets.features(row), threads, attrs)
