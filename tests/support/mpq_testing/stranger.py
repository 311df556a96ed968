"""Run libraries as a stranger would: plain TVM runtime, in a process that cannot import tvm_mpq.

Standard input: a line of JSON for each call, {"folder": where to run, "jobs": [{"library", "inputs" (.npz, in order
arr_0, arr_1, ...), "outputs"}, ...]}. A line on standard output when the jobs are done; the first failure ends the
process. Importing TVM takes seconds, so the tests start one for all their calls, which holds no library between them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class _Wall:
    """An import hook in front of all others."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "tvm_mpq":
            raise ImportError("tvm_mpq is not there for a stranger")


def run(jobs: list[dict[str, str]]) -> None:
    import numpy as np
    import tvm
    from tvm import relax

    for job in jobs:
        machine = relax.VirtualMachine(tvm.runtime.load_module(job["library"]), tvm.cpu())
        with np.load(job["inputs"]) as archive:
            arrays = [tvm.runtime.tensor(archive[f"arr_{i}"]) for i in range(len(archive.files))]
        result: Any = machine["main"](*arrays)
        found = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        np.savez(job["outputs"], *[t.numpy() for t in found])


def main() -> None:
    sys.meta_path.insert(0, _Wall())
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it, for seconds
    for line in sys.stdin:
        asked = json.loads(line)
        os.chdir(asked["folder"])
        run(asked["jobs"])
        assert "tvm_mpq" not in sys.modules
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
