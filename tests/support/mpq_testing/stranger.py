"""Run libraries as a stranger would: plain TVM runtime, in a process that cannot import tvm_mpq.

usage: stranger.py JOBS.json; JOBS is a list of {"library", "inputs" (.npz, in order arr_0, arr_1, ...), "outputs"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


class _Wall:
    """An import hook in front of all others."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "tvm_mpq":
            raise ImportError("tvm_mpq is not there for a stranger")


def main(jobs: Path) -> None:
    sys.meta_path.insert(0, _Wall())
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it, for seconds
    import numpy as np
    import tvm
    from tvm import relax

    for job in json.loads(jobs.read_text()):
        machine = relax.VirtualMachine(tvm.runtime.load_module(job["library"]), tvm.cpu())
        with np.load(job["inputs"]) as archive:
            arrays = [tvm.runtime.tensor(archive[f"arr_{i}"]) for i in range(len(archive.files))]
        result = machine["main"](*arrays)
        found = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        np.savez(job["outputs"], *[t.numpy() for t in found])
    assert "tvm_mpq" not in sys.modules


if __name__ == "__main__":
    main(Path(sys.argv[1]))
