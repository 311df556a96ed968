"""How good outputs are: by labels, or against the fp32 network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import DataError
from tvm_mpq.passes.graph import Graph

SUM_ERROR = 1e-3
"""How far the probabilities of a softmax may be from adding up to 1."""


def require_finite(outputs: Sequence[npt.NDArray[Any]], whose: str) -> None:
    """Raises DataError, which names the sample, when an output holds NaN or infinity: no accuracy can be told of it."""
    for i, output in enumerate(outputs):
        if not np.isfinite(output).all():
            raise DataError(f"{whose} gives NaN or infinity for sample {i}; check data and weights, or use more bits")


def relative_error(output: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """||output - reference|| / ||reference||, Euclidean norms; infinite where either holds NaN or infinity."""
    if not (np.isfinite(output).all() and np.isfinite(reference).all()):
        return math.inf
    difference = output.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(reference)), 1e-30))


def class_scores(output: npt.NDArray[Any], reference: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float64]:
    """float64[N, C] logits of a classifier's output [N, C, 1, ...]: of probabilities, their logarithms.

    A softmax at a network's end would be hidden otherwise: that of probabilities again is nearly flat, however sure the
    network is. reference: what fp32 gives for these samples, which tells whether they are probabilities; None = the
    output tells itself.

    >>> class_scores(np.array([[0.5, 0.25, 0.25]])).round(3).tolist(), class_scores(np.array([[2.0, 1.0]])).tolist()
    ([[-0.693, -1.386, -1.386]], [[2.0, 1.0]])
    """
    rows = output.reshape(len(output), -1).astype(np.float64)
    known = rows if reference is None else reference.reshape(len(reference), -1).astype(np.float64)
    if known.shape[1] < 2 or not ((known >= 0).all() and (abs(known.sum(axis=1) - 1) < SUM_ERROR).all()):
        return rows
    return np.asarray(np.log(np.maximum(rows, np.finfo(np.float32).tiny)))


@dataclass(frozen=True)
class Accuracy:
    """metric: top1 (against labels, percent), agreement (arg max as fp32's, percent) or relative_error (percent).

    better, worse: samples that fp32 has wrong and these outputs right, and the other way round.
    """

    metric: str
    value: float
    hits: int
    samples: int
    better: int = 0
    worse: int = 0


def accuracy(
    outputs: Sequence[npt.NDArray[Any]],
    reference: Sequence[npt.NDArray[Any]],
    labels: npt.NDArray[np.int64] | None,
    *,
    classifies: bool,
    whose: str = "the network",
) -> Accuracy:
    """How good outputs are: against labels where given, else against the fp32 network's outputs.

    Raises
    ------
    DataError
        If an output holds NaN or infinity: its arg max would be a class like any other. The text says `whose` it is.
    """
    require_finite(outputs, whose)
    require_finite(reference, "the fp32 network")
    count = len(outputs)
    if not classifies:
        errors = [relative_error(o, r) for o, r in zip(outputs, reference, strict=True)]
        return Accuracy("relative_error", 100 * float(np.mean(errors)), 0, count)
    found, before = (np.concatenate([o.reshape(len(o), -1).argmax(axis=-1) for o in x]) for x in (outputs, reference))
    wanted, metric = (before, "agreement") if labels is None else (labels[: len(found)], "top1")
    right, was_right = found == wanted, before == wanted
    hits, better, worse = (int(x.sum()) for x in (right, right & ~was_right, was_right & ~right))
    return Accuracy(metric, 100 * hits / len(found), hits, len(found), better, worse)


def check_labels(labels: npt.NDArray[np.int64] | None, *, classifies: bool) -> None:
    """Raises DataError when there are labels for a network that gives no class scores."""
    if labels is not None and not classifies:
        raise DataError("labels need a model whose first output is one score per class ([N, C]); leave the labels out")


def classifies(graph: Graph) -> bool:
    """Whether the first output is one score per class: [N, C], perhaps with axes of length 1; not the input's shape."""
    source, result = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    axes = [length for length in result.shape[1:] if length > 1]
    return source.shape != result.shape and result.dtype == "float32" and len(axes) == 1


def metric_for(graph: Graph) -> str:
    """`kl` for a classifier, `mse` for whatever else a network may give (reconstructions, maps, boxes)."""
    return "kl" if classifies(graph) else "mse"
