"""The rows of `accuracy.py`: who takes part, the command of one row's worker, and what its answer says against fp32."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).resolve().parent / "peers_accuracy"


@dataclass(frozen=True)
class Peer:
    """One maker's software.

    worker: file in `peers_accuracy/`. requirements: what pip installs into the environment of its own; empty = the
    project's own Python. methods: how it can round, by name; "" = there is only one way.
    """

    name: str
    worker: str
    requirements: tuple[str, ...]
    methods: tuple[str, ...]


PEERS = {
    p.name: p
    for p in (
        Peer("fp32", "run_fp32.py", ("onnxruntime", "numpy"), ("float",)),
        Peer("ours", "run_ours.py", (), ("nearest", "gptq", "adaround")),
        Peer("aimet", "run_aimet.py", ("aimet-onnx", "torch"), ("nearest", "adaround")),
        Peer("nncf", "run_nncf.py", ("nncf", "openvino"), ("nearest",)),
        Peer("mct", "run_mct.py", ("model-compression-toolkit", "onnx2torch", "torch"), ("nearest", "gptq")),
        Peer("brevitas", "run_brevitas.py", ("brevitas", "onnx2torch", "torch"), ("nearest", "gptq")),
    )
}


@dataclass(frozen=True)
class Bits:
    """A configuration. edges8: the first and the last layer stay at 8 bits."""

    weight: int
    activation: int
    edges8: bool

    @property
    def name(self) -> str:
        return f"w{self.weight}a{self.activation}" + ("-edges8" if self.edges8 else "")


def bits(text: str) -> Bits:
    """Read `w4a8`, or `w2a4-edges8`.

    Raises
    ------
    ValueError
        If it is neither, or asks for bits outside 2..8.
    """
    found = re.fullmatch(r"w([2-8])a([2-8])(-edges8)?", text)
    if not found:
        raise ValueError(f"bits must be as w4a8 or w2a4-edges8, with 2 to 8 bits (got {text!r})")
    return Bits(int(found[1]), int(found[2]), found[3] is not None)


@dataclass(frozen=True)
class Row:
    """One line of the table before it is measured."""

    network: str
    peer: str
    method: str
    bits: Bits

    @property
    def who(self) -> str:
        return self.peer if self.peer == "fp32" else f"{self.peer} {self.method}"

    @property
    def key(self) -> str:
        return f"{self.network}/{self.bits.name}/{self.who}"


def rows(networks: list[str], peers: list[str], configurations: list[Bits]) -> list[Row]:
    """All lines, fp32 first in each network: the others are told against it."""
    found = []
    for network in networks:
        found.append(Row(network, "fp32", "float", Bits(8, 8, False)))
        for b in configurations:
            for peer in peers:
                found += [Row(network, peer, m, b) for m in PEERS[peer].methods if peer != "fp32"]
    return found


@dataclass(frozen=True)
class Effort:
    """How much learned rounding may do; None = each peer's own default."""

    iterations: int | None = None
    step_images: int = 32
    rounding_images: int | None = None
    seed: int = 0

    def arguments(self) -> list[str]:
        given = {
            "--iterations": self.iterations,
            "--step-images": self.step_images,
            "--rounding-images": self.rounding_images,
            "--seed": self.seed,
        }
        return [text for name, value in given.items() if value is not None for text in (name, str(value))]


def command(row: Row, python: str, files: tuple[Path, Path, Path], effort: Effort) -> list[str]:
    """What is run for a row. files: the network, the calibration and the evaluation images."""
    b = row.bits
    found = [python, str(WORKERS / PEERS[row.peer].worker), *map(str, files), "--method", row.method]
    found += ["--weight-bits", str(b.weight), "--activation-bits", str(b.activation)]
    return found + (["--edges8"] if b.edges8 else []) + effort.arguments()


def answer(output: str, code: int, log: str) -> dict[str, Any]:
    """A worker's answer: its last line of standard output, or why there is none."""
    lines = [line for line in output.splitlines() if line.strip()]
    if code == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    return {"reason": f"failed with exit code {code}: {last[:200]}"}


@dataclass(frozen=True)
class Change:
    """Top-1 against fp32 on the same images, in points. half_width: of the 95 % interval."""

    points: float
    half_width: float


def change(predictions: list[int], reference: list[int], labels: list[int]) -> Change:
    """Paired difference of top-1: (b - c) / n with variance (b + c - (b - c)^2 / n) / n^2.

    b images are right only here and c only in the reference (Agresti, Categorical Data Analysis, section 10.1).
    """
    n = len(labels)
    pairs = list(zip(predictions, reference, labels, strict=True))
    b = sum(p == y != r for p, r, y in pairs)
    c = sum(r == y != p for p, r, y in pairs)
    variance = (b + c - (b - c) ** 2 / n) / n**2
    return Change(100 * (b - c) / n, 100 * 1.96 * math.sqrt(variance))


def cells(entry: dict[str, Any], reference: dict[str, Any] | None, labels: list[int]) -> list[str]:
    """right, top-1, against fp32, seconds, and the settings, or the reason in their place."""
    if "reason" in entry:
        return ["-", "-", "-", "-", entry["reason"]]
    against = "-"
    if reference is not None and "predictions" in reference:
        d = change(entry["predictions"], reference["predictions"], labels)
        against = f"{d.points:+.2f} ± {d.half_width:.2f}"
    top1 = f"{100 * entry['right'] / entry['images']:.2f} %"
    return [f"{entry['right']}/{entry['images']}", top1, against, f"{entry['seconds']:.0f}", entry["settings"]]
