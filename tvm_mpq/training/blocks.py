"""A lowered network in blocks: ranges of steps whose weights are learned together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import KernelStep, Step, StoredValue, made_by, read_by
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload

JOINED = 3
"""Weighted integer operators up to which blocks that follow each other are one: an inverted bottleneck has three."""

LONGEST = 8
"""Weighted integer operators above which what lies between two cut points is taken operator by operator."""


def learns(step: Step) -> bool:
    """Whether it is an integer operator with weights."""
    if not isinstance(step, KernelStep):
        return False
    request = step.kernel.request
    return isinstance(request.workload, Conv2dWorkload) and not request.precision.is_float


def read_after(steps: Sequence[Step], inputs: Sequence[str]) -> list[set[StoredValue]]:
    """For each place before a step, and the end: what was made before it and is read at it or later."""
    made = {StoredValue(name, FLOAT_BITS) for name in inputs} | {made_by(step) for step in steps}
    found: list[set[StoredValue]] = [set()]
    for step in reversed(steps):
        found.append((found[-1] - {made_by(step)}) | set(read_by(step)) & made)
    return found[::-1]


def blocks(graph: Graph, steps: Sequence[Step]) -> list[range]:
    """Ranges of steps that cover all of them in order.

    Cut where a single tensor goes on, as behind a residual's addition; several small ones become one up to `JOINED`
    operators. A range of more than `LONGEST`, as where a long skip hinders cutting, is cut before each operator.
    """
    live = read_after(steps, graph.inputs)
    counts = [learns(step) for step in steps]
    cuts = [0, *(i for i in range(1, len(steps)) if len(live[i]) == 1), len(steps)]
    pieces: list[range] = []
    for first, last in itertools.pairwise(cuts):
        inner = [i for i in range(first + 1, last) if counts[i]] if sum(counts[first:last]) > LONGEST else []
        edges = [first, *inner, last]
        pieces += [range(a, b) for a, b in itertools.pairwise(edges)]
    joined: list[range] = []
    for piece in pieces:
        if joined and sum(counts[joined[-1].start : piece.stop]) <= JOINED:
            joined[-1] = range(joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return joined
