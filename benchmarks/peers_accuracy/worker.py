"""What the workers of `accuracy.py` share: their command line, their images, the one JSON line they print.

A worker is run by the Python of its own environment, where this project is not installed: only the standard library,
NumPy and what that environment holds may be imported here and in the `run_*.py` files beside this one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class CannotError(Exception):
    """The peer does not offer what was asked; the message is the reason that the table shows."""


@dataclass(frozen=True)
class Task:
    """One cell of the table: a network, a method of the peer, and the bits.

    edges8: the first and the last convolution or linear layer, and the tensors they read, stay at 8 bits.
    iterations: steps of learned rounding in each layer (or over the whole network, where the peer works so), None =
    the peer's own default. step_images: images in one such step. rounding_images: how many of the calibration images
    rounding learns from, None = all; ranges come from all of them always.
    calibration: float32[N, C, H, W].
    """

    model: Path
    input_name: str
    calibration: Floats
    evaluation: Floats
    labels: Indices
    method: str
    weight_bits: int
    activation_bits: int
    edges8: bool
    iterations: int | None
    step_images: int
    rounding_images: int | None
    seed: int

    def batches(self, size: int) -> Iterator[Floats]:
        """The calibration images, `size` at a time, in their order."""
        return _parts(self.calibration, size)

    def evaluation_batches(self, size: int) -> Iterator[Floats]:
        """The images that are judged, `size` at a time, in their order."""
        return _parts(self.evaluation, size)

    def steps(self) -> list[Floats]:
        """The images that rounding learns from, evenly spaced over the calibration images, as whole steps."""
        count = len(self.calibration)
        chosen = np.linspace(0, count - 1, min(self.rounding_images or count, count)).astype(np.int64)
        return list(_parts(self.calibration[chosen], self.step_images))


def _parts(x: Floats, size: int) -> Iterator[Floats]:
    return (x[i : i + size] for i in range(0, len(x), size))


@dataclass(frozen=True)
class Outcome:
    """The quantized network's logits float32[N, classes], and what the peer was told, in words."""

    logits: Floats
    settings: str


Method = Callable[[Task], Outcome]


def parse(arguments: list[str], methods: dict[str, Method]) -> Task:
    """The task that a command line asks for."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("model", type=Path)
    add("calibration", type=Path, help=".npz with the images under the name of the network's input")
    add("evaluation", type=Path, help="the same with `labels`")
    add("--method", choices=sorted(methods), required=True)
    add("--weight-bits", type=int, required=True)
    add("--activation-bits", type=int, required=True)
    add("--edges8", action="store_true")
    add("--iterations", type=int)
    add("--step-images", type=int, default=32)
    add("--rounding-images", type=int)
    add("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    with np.load(o.calibration, allow_pickle=False) as z:
        (name,) = (n for n in z.files if n != "labels")
        calibration = z[name]
    with np.load(o.evaluation, allow_pickle=False) as z:
        evaluation, labels = z[name], z["labels"]
    bits = o.weight_bits, o.activation_bits
    steps = o.iterations, o.step_images, o.rounding_images
    return Task(o.model, name, calibration, evaluation, labels, o.method, *bits, o.edges8, *steps, o.seed)


def answer(task: Task, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The line's content."""
    predictions = outcome.logits.argmax(axis=1)
    right = int((predictions == task.labels).sum())
    return {
        "right": right,
        "images": len(task.labels),
        "seconds": round(seconds, 1),
        "settings": outcome.settings,
        "predictions": predictions.tolist(),
    }


def run(methods: dict[str, Method]) -> None:
    """Carry out one task and print its answer, or `{"reason": ...}` where the peer cannot do it."""
    task = parse(sys.argv[1:], methods)
    random.seed(task.seed)
    np.random.seed(task.seed)  # noqa: NPY002  the peers draw from the global state
    output, sys.stdout = sys.stdout, sys.stderr  # the peers print their progress
    started = time.perf_counter()
    try:
        outcome = methods[task.method](task)
    except CannotError as e:
        line: dict[str, Any] = {"reason": str(e)}
    else:
        if not np.isfinite(outcome.logits).all():
            raise ValueError("the quantized network's logits must be finite")
        line = answer(task, outcome, time.perf_counter() - started)
    print(json.dumps(line), file=output, flush=True)
