"""Run a built network over a file of samples and save what it computes.

    python examples/run_batch.py build samples.npz outputs.npz

`samples.npz` holds arrays named after the inputs, first axis = samples, as for calibration. `outputs.npz` gets
`output0`, `output1`, ... in the order of the network's outputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tvm_mpq as mpq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `tvm-mpq optimize` or `build` wrote")
    parser.add_argument("samples", type=Path)
    parser.add_argument("outputs", type=Path)
    args = parser.parse_args()
    model = mpq.load_model(args.folder)
    with np.load(args.samples) as archive:
        arrays = {name: archive[name] for name in model.inputs}
    rows = {name: shape[0] for name, (shape, _) in model.inputs.items()}  # that one run takes
    runs = min(len(array) // rows[name] for name, array in arrays.items())
    found = []
    for i in range(runs):
        y = model.run({name: array[i * rows[name] : (i + 1) * rows[name]] for name, array in arrays.items()})
        found.append(y if isinstance(y, list) else [y])
    outputs = {f"output{k}": np.concatenate(parts) for k, parts in enumerate(zip(*found, strict=True))}
    np.savez(args.outputs, **outputs)
    print(f"{runs} runs: " + ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items()))


if __name__ == "__main__":
    main()
