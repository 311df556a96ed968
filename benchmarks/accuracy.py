"""Rounding of ours beside other makers' post-training quantization: same network, bits, calibration images.

    python benchmarks/accuracy.py --shared FOLDER --networks resnet20 --bits w4a8 --peers ours,aimet --json out.json

Each peer lives in an environment of its own, made by pip on first use. See benchmarks/README.md. The table goes to
standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_rows import PEERS, Effort, Peer, Row, answer, bits, cells, command, rows
from command_line import chosen, say
from networks import material
from rich.console import Console
from rich.table import Table

from tvm_mpq.peers.compare import default_cache

KNOWN = ("mobilenetv2", "squeezenet1_1", "resnet20", "resnet56")
CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
# One thread each, and large tensors from the heap: handing them back to the system at every step doubles its time.
SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",
    "TVM_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    others = [n for n in PEERS if n != "fp32"]
    add("--shared", type=Path, required=True, help="folder with models/ and dataset.py")
    add("--networks", default="resnet20", help=f"comma separated, of {', '.join(KNOWN)}; or all")
    add("--peers", default="all", help=f"comma separated, of {', '.join(others)}; or all")
    add("--methods", default="all", help="comma separated, only these of each peer; or all")
    add("--bits", default="w8a8,w4a8,w4a4-edges8,w2a4-edges8", help="comma separated (default %(default)s)")
    add("--calibration", type=int, default=500, help="calibration images, the same for all (default 500)")
    add("--iterations", type=int, help="steps of learned rounding, a layer or in all (default: the peer's own)")
    add("--step-images", type=int, default=32, help="images in such a step (default 32)")
    add("--rounding-images", type=int, help="learn the rounding from so many of the calibration images (default all)")
    add("--seed", type=int, default=0)
    add(
        "--env-dir", type=Path, default=default_cache() / "peers_accuracy", help="environments and images are kept here"
    )
    add("--timeout-sec", type=float, default=6 * 3600.0, help="for one row (default 21600)")
    add("--json", type=Path, help="write every answer here after each row; rows that it holds are not run again")
    options = parser.parse_args()
    options.networks = chosen(parser, options.networks, KNOWN)
    options.peers = chosen(parser, options.peers, tuple(others))
    options.env_dir, options.shared = options.env_dir.resolve(), options.shared.resolve()
    try:
        options.bits = [bits(text) for text in options.bits.split(",")]
    except ValueError as e:
        parser.error(str(e))
    return options


def environment(peer: Peer, folder: Path) -> str:
    """The peer's Python; its environment is made when it lacks or was made for other requirements."""
    if not peer.requirements:
        return sys.executable
    home = folder / peer.name
    python, stamp = home / "bin" / "python", home / "requirements.txt"
    wanted = "\n".join(peer.requirements) + "\n" + CONSTRAINTS.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        say(f"{peer.name}: installing {', '.join(peer.requirements)} into {home}")
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), *peer.requirements]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def files(network: str, options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The ONNX file, and the calibration and evaluation images as `.npz`."""
    found = material(network, options.shared, options.env_dir, options.calibration, 1, accuracy=True)
    if found.evaluation is None or found.labels is None:
        raise ValueError(f"{network} must have labelled images")
    folder = options.env_dir / "networks" / network
    calibration, evaluation = folder / "calibration.npz", folder / "evaluation.npz"
    np.savez(calibration, input=np.load(found.calibration))
    np.savez(evaluation, input=np.load(found.evaluation), labels=found.labels)
    # Not `found.onnx`, whose batch is fixed to one image.
    return options.shared / str(found.source.onnx), calibration, evaluation


def measure(row: Row, python: str, paths: tuple[Path, Path, Path], options: argparse.Namespace) -> dict[str, Any]:
    effort = Effort(options.iterations, options.step_images, options.rounding_images, options.seed)
    log = options.env_dir / "last.log"
    with log.open("w+", encoding="utf-8") as errors:
        call = command(row, python, paths, effort)
        try:
            done = subprocess.run(
                call,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | SURROUNDINGS,
                timeout=options.timeout_sec,
                cwd=options.env_dir,  # outside the repository, so that nothing is imported from there
            )
        except subprocess.TimeoutExpired:
            return {"reason": f"not done within {options.timeout_sec:g} s"}
        errors.seek(0)
        return answer(done.stdout, done.returncode, errors.read())


def show(done: dict[str, dict[str, Any]], order: list[Row], labels: dict[str, list[int]]) -> None:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=180)
    for network in labels:
        table = Table(title=f"{network}, {len(labels[network])} images", title_justify="left")
        for header in ("bits", "who", "right", "top-1", "points to fp32", "s", "settings, or why not"):
            table.add_column(header)
        mine = [r for r in order if r.network == network and r.key in done]
        reference = next((done[r.key] for r in mine if r.peer == "fp32"), None)
        for r in mine:
            name = "fp32" if r.peer == "fp32" else r.bits.name
            table.add_row(name, r.who, *cells(done[r.key], reference, labels[network]))
        console.print(table)


def main() -> None:
    options = arguments()
    options.env_dir.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, Any]] = {}
    if options.json and options.json.exists():
        done = json.loads(options.json.read_text(encoding="utf-8"))
    order = rows(options.networks, options.peers, options.bits)
    if options.methods != "all":
        order = [r for r in order if r.peer == "fp32" or r.method in options.methods.split(",")]
    paths = {network: files(network, options) for network in options.networks}
    labels = {network: np.load(p[2])["labels"].tolist() for network, p in paths.items()}
    for row in order:
        if "predictions" in done.get(row.key, {}):
            continue
        say(row.key)
        done[row.key] = measure(row, environment(PEERS[row.peer], options.env_dir), paths[row.network], options)
        if options.json:
            options.json.write_text(json.dumps(done) + "\n", encoding="utf-8")
    show(done, order, labels)


if __name__ == "__main__":
    main()
