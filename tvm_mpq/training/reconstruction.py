"""Rounding learned block by block: each block's weights come to give what the float network's block gives.

Block reconstruction as in BRECQ (Li et al. 2021, arXiv 2102.05426): on the inputs that the blocks before leave, codes,
step sizes and biases of a block learn together, and its error counts by what it changes in the network's answers. No
labels are needed. Gradients pass through rounding as if it were not there, so that what learns is at every update what
the kernels compute; AdaRound's sigmoids between two codes (Nagel et al. 2020, arXiv 2004.10568) need more updates until
they are whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.calibrate.float_side import POSITIONS
from tvm_mpq.calibrate.patches import choose_positions, patches
from tvm_mpq.calibrate.rounding import rounded_operator
from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import dequantize_codes
from tvm_mpq.numerics.rounding import InputMoments
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Graph, Node
from tvm_mpq.passes.lowering import KernelStep, StoredValue, made_by
from tvm_mpq.schema import FLOAT_BITS, Plan, Progress
from tvm_mpq.training.batched_walk import CHUNK, BatchedWalk
from tvm_mpq.training.batches import check_batches
from tvm_mpq.training.block_goal import BlockGoal
from tvm_mpq.training.blocks import blocks, learns, read_after
from tvm_mpq.training.checkpoint import Checkpoint
from tvm_mpq.training.convolution import Convolution
from tvm_mpq.training.course import generator, identity, share_of_rate
from tvm_mpq.training.fisher import error_factors
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.optimizer import ScaledAdam
from tvm_mpq.training.settings import ReconstructionSettings

LEAST_RUNS = 128
"""Of the network, whose tensors the closed form looks at; more where an output has few positions."""

MEMORY_BYTES = 2 << 30
"""What the tensors between blocks may take over all samples."""


@dataclass(frozen=True)
class Reconstructed:
    """What came of one block. operators: that learned. error: of the kept integers over that of the first ones.

    Both on all samples; 1 where learning made it no better.
    """

    operators: tuple[str, ...]
    error: float


def reconstruct(
    graph: Graph,
    plan: Plan,
    features: frozenset[str],
    data: Dataset,
    settings: ReconstructionSettings,
    *,
    fixed: WeightCodes | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    seen: Callable[[Reconstructed], None] | None = None,
) -> WeightCodes:
    """Codes, step sizes and biases of a plan's integer operators, learned from samples; equal calls give equal ones.

    Each block starts from the closed form of `calibrate.rounding` for what it meets now, and what is kept is never
    worse than that by the block's error on the samples.

    Parameters
    ----------
    data
        Samples named as the graph's inputs, of which as many as `MEMORY_BYTES` hold are used; labels are not.
    fixed
        Weights that stay as they are.
    checkpoint
        File that finished blocks are kept in. A call that finds those of the same work goes on behind them.
    seen
        Is told of every block.

    Raises
    ------
    UnsupportedModelError
        If an operator has no form in PyTorch, or results depend on the batch.
    InvalidValueError
        If learning diverged.
    """
    return _Reconstruction(graph, plan, features, data, settings, fixed, checkpoint, progress, seen).run()


class _Reconstruction:
    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        features: frozenset[str],
        data: Dataset,
        settings: ReconstructionSettings,
        fixed: WeightCodes | None,
        checkpoint: Path | None,
        progress: Progress | None,
        seen: Callable[[Reconstructed], None] | None,
    ) -> None:
        self._settings, self._progress, self._seen = settings, progress, seen
        self._network = QuantizedNetwork(graph, plan, features, fixed).requires_grad_(False)
        self._steps, self._graph, self._batch = self._network.steps, graph, data.batch
        self._nodes = {node.name: (i, node) for i, node in enumerate(graph.weighted())}
        self._fixed = {name for name, _ in fixed or ()}
        self._blocks = blocks(graph, self._steps)
        self._later = read_after(self._steps, graph.inputs)
        self._teacher = QuantizedNetwork(graph, float_plan(graph, plan), features).eval().requires_grad_(False)
        self._inputs = self._loaded(data)
        check_batches(self._teacher, [x[:2] for x in self._inputs])
        of = identity(plan, fixed, data, settings, graph)
        self._checkpoint = None if checkpoint is None else Checkpoint(checkpoint, of)

    def _loaded(self, data: Dataset) -> list[Tensor]:
        """As many samples as fit, evenly spaced."""
        widest = max(sum(self._values(value) for value in held) for held in self._later)
        most = max(2, MEMORY_BYTES // (4 * 3 * widest))  # of both networks, and what is to be given
        arrays = [data.arrays[name] for name in self._graph.inputs]
        count = min(len(arrays[0]), most)
        rows = np.linspace(0, len(arrays[0]) - 1, count).astype(np.int64)
        return [torch.from_numpy(np.ascontiguousarray(x[rows])) for x in arrays]

    def _values(self, value: StoredValue) -> int:
        return math.prod(self._graph.tensors[value.tensor].shape[1:])

    def run(self) -> WeightCodes:
        settings = self._settings
        learning = [block for block in self._blocks if self._operators(block)]
        total = settings.updates * len(learning)
        finished = self._resume()
        goals = {value.tensor for block in learning for value in self._outputs(block)}
        spaced = np.linspace(0, len(self._inputs[0]) - 1, min(settings.fisher_samples, len(self._inputs[0])))
        rows = torch.from_numpy(spaced.astype(np.int64))
        factors = error_factors(
            self._teacher, [x[rows] for x in self._inputs], goals - set(self._graph.outputs), settings.seed
        )
        mixed, wide = BatchedWalk(self._network, self._inputs), BatchedWalk(self._teacher, self._inputs)
        done = 0
        for block in self._blocks:
            outputs = self._outputs(block)
            if self._operators(block):
                if done >= finished:
                    self._close(block, mixed, wide)
                    reals = {v: StoredValue(v.tensor, FLOAT_BITS) for v in outputs}
                    wide.advance(wide.stop_for(list(reals.values())), list(reals.values()))
                    wanted = {v: wide.value(real).data for v, real in reals.items()}
                    goal = BlockGoal(wanted, {v: factors[v.tensor] for v in outputs if v.tensor in factors})
                    self._learn(block, mixed, goal, done, total)
                    self._save(done + 1)
                done += 1
            mixed.advance(block.stop)
        if self._progress:
            self._progress(total, total, "learning to round")
        learned: WeightCodes = self._network.learned_codes()
        return learned

    def _operators(self, block: range) -> dict[str, Convolution]:
        convolutions = self._network.convolutions
        return {step.node: convolutions[step.node] for step in self._learning(block)}

    def _learning(self, block: range) -> list[KernelStep]:
        steps = [self._steps[i] for i in block]
        return [s for s in steps if isinstance(s, KernelStep) and learns(s) and s.node not in self._fixed]

    def _outputs(self, block: range) -> list[StoredValue]:
        """What a block leaves to later ones, or to the user."""
        made = dict.fromkeys(made_by(self._steps[i]) for i in block)
        return [v for v in made if v in self._later[block.stop] or v.tensor in self._graph.outputs]

    def _close(self, block: range, mixed: BatchedWalk, wide: BatchedWalk) -> None:
        """Round the block's weights in closed form, one operator after the other."""
        for step in self._learning(block):
            number, node = self._nodes[step.node]
            quant = step.operands.inputs[0]
            assert quant is not None, "an integer operator reads integers"
            positions, rows = self._places(number, node)
            met = self._met(mixed, step.inputs[0], node, rows, positions, quant.zero_point)
            real = self._met(wide, StoredValue(node.inputs[0], FLOAT_BITS), node, rows, positions, 0)
            rounded = rounded_operator(node, step, InputMoments.of(dequantize_codes(met, quant), real))
            assert node.weight is not None
            self._network.convolutions[step.node].start_from(node.weight, rounded)

    def _places(self, number: int, node: Node) -> tuple[list[npt.NDArray[np.int64]], Tensor]:
        """Output positions of each of the runs of `batch` samples, and the samples' rows, run after run."""
        work, runs = node.conv, len(self._inputs[0]) // self._batch
        whole = work.batch * work.out_height * work.out_width
        used = min(runs, max(LEAST_RUNS, math.ceil(POSITIONS / whole)))
        picked = np.linspace(0, runs - 1, used).astype(np.int64)
        rng = np.random.default_rng((self._settings.seed, number))
        positions = [choose_positions(work, max(1, POSITIONS // used), rng) for _ in picked]
        rows = (picked[:, None] * self._batch + np.arange(self._batch)).reshape(-1)
        return positions, torch.from_numpy(rows)

    def _met(
        self,
        walk: BatchedWalk,
        value: StoredValue,
        node: Node,
        rows: Tensor,
        positions: list[npt.NDArray[np.int64]],
        zero: int,
    ) -> npt.NDArray[Any]:
        """[G, P, n] of a tensor under the kernel at these positions."""
        at_once = max(1, CHUNK // self._batch)  # runs
        parts = []
        for first in range(0, len(positions), at_once):
            some = positions[first : first + at_once]
            x = walk.stored(value, rows[first * self._batch : (first + len(some)) * self._batch])
            parts.append(patches(node.conv, np.split(x, len(some)), some, zero))
        return np.concatenate(parts, axis=1)

    def _learn(self, block: range, mixed: BatchedWalk, goal: BlockGoal, number: int, total: int) -> None:
        """Improve the block's weights; they stay as they are where that fails."""
        settings, operators = self._settings, self._operators(block)
        before = goal.errors(mixed, block)
        if not any(before.values()):
            return
        start = {name: copy.deepcopy(c.state_dict()) for name, c in operators.items()}
        parts = [(c, float(self._network.input_range(name).quant().step)) for name, c in operators.items()]
        optimizer = ScaledAdam(parts, [], settings.weight_rate, settings.step_rate)
        batch = min(mixed.count, settings.batch_of(max(self._positions(v) for v in goal.wanted)))
        quants = self._network.quants()
        self._network.train()
        for convolution in operators.values():
            convolution.requires_grad_(True)
        for update in range(settings.updates):
            if self._progress:
                self._progress(number * settings.updates + update, total, "learning to round")
            rows = torch.randint(mixed.count, (batch,), generator=generator(settings.seed, number, update))
            held = {value: mixed.value(value, rows) for value in self._later[block.start]}
            for i in block:
                self._network.run_step(i, held, quants)
            loss = goal.relative(goal.squares(held, rows), before)
            if not torch.isfinite(loss):
                raise InvalidValueError(
                    f"rounding of {', '.join(operators)} diverged; take lower rates than "
                    f"weight_rate={settings.weight_rate:g} and step_rate={settings.step_rate:g}"
                )
            optimizer.update(loss, share_of_rate(update, settings.updates))
        for convolution in operators.values():
            convolution.requires_grad_(False)
        after = float(goal.relative({v: torch.tensor(e) for v, e in goal.errors(mixed, block).items()}, before))
        if not after < 1:
            for name, convolution in operators.items():
                convolution.load_state_dict(start[name])
        if self._seen:
            self._seen(Reconstructed(tuple(operators), min(after, 1.0)))

    def _positions(self, value: StoredValue) -> int:
        return math.prod(self._graph.tensors[value.tensor].shape[1:-1])

    def _save(self, finished: int) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save({"finished": finished, "network": self._network.state_dict()})

    def _resume(self) -> int:
        """How many blocks are done."""
        state = None if self._checkpoint is None else self._checkpoint.load()
        if state is None:
            return 0
        self._network.load_state_dict(state["network"])
        return int(state["finished"])
