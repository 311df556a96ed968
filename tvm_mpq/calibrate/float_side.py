"""What each weight meets in the float network: the same for every plan, and collected once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tvm_mpq.calibrate.lockstep import Lockstep
from tvm_mpq.calibrate.patches import choose_positions, patches
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import Step, StoredValue
from tvm_mpq.schema import FLOAT_BITS

POSITIONS = 8192
"""Of an operator's output, over all samples, that its moments are taken from at most."""

FEWEST = 1024
"""Of them that are taken where an output channel has few weights."""

EACH = 64
"""Positions for each weight of an output channel, between these two."""

KEPT_BYTES = 1 << 30
"""What is kept for later plans; what is beyond is collected anew for each."""


class FloatSide:
    """Positions of every operator's output, and the float network's inputs there.

    steps: of the float network. samples: one mapping from input name to float32 array each.
    """

    def __init__(self, graph: Graph, steps: Sequence[Step], samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._graph, self._steps = graph, list(steps)
        self._seeds = {node.name: i for i, node in enumerate(graph.weighted())}
        self._positions: dict[str, list[npt.NDArray[np.int64]]] = {}
        self._kept: dict[str, npt.NDArray[np.float32]] = {}
        self._bytes = 0

    def walk(self, interpreter: Interpreter) -> FloatWalk:
        """Through the network once more, as far as anything is missing; operators in the network's order."""
        return FloatWalk(self, interpreter)

    def positions(self, node: Node) -> list[npt.NDArray[np.int64]]:
        """int64[P, 3] for each sample, as `choose_positions` gives them; always the same ones."""
        if node.name not in self._positions:
            wanted = min(POSITIONS, max(FEWEST, EACH * node.conv.terms))
            count = max(1, wanted // len(self.samples))
            rng = np.random.default_rng((0, self._seeds[node.name]))
            self._positions[node.name] = [choose_positions(node.conv, count, rng) for _ in self.samples]
        return self._positions[node.name]

    def kept(self, node: Node) -> npt.NDArray[np.float32] | None:
        return self._kept.get(node.name)

    def keep(self, node: Node, found: npt.NDArray[np.float32]) -> None:
        if self._bytes + found.nbytes <= KEPT_BYTES:
            self._kept[node.name] = found
            self._bytes += found.nbytes

    def lockstep(self, interpreter: Interpreter) -> Lockstep:
        interpreter.prepare(self._steps)
        return Lockstep(self._graph, interpreter, self.samples, self._steps, "float")


class FloatWalk:
    """One walk: runs the float network only where something is asked for that is not kept."""

    def __init__(self, side: FloatSide, interpreter: Interpreter) -> None:
        self._side, self._interpreter = side, interpreter
        self._lockstep: Lockstep | None = None

    def inputs(self, node: Node) -> npt.NDArray[np.float32]:
        """float32[G, P, n] under the node's kernel at its positions; not to be written to."""
        found = self._side.kept(node)
        if found is not None:
            return found
        if self._lockstep is None:
            self._lockstep = self._side.lockstep(self._interpreter)
        value = StoredValue(node.inputs[0], FLOAT_BITS)
        while not self._lockstep.holds(value):
            self._lockstep.advance()
        found = patches(node.conv, list(self._lockstep.values(value)), self._side.positions(node))
        self._side.keep(node, found)
        return found
