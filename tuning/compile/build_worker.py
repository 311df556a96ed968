"""The child process in which kernels are compiled: a time-out or a crash of LLVM ends it, and nothing else.

Each message names a file with functions, the shared library to make of them, and an object file for each, which a
network's library takes in as it is. The file holds an IRModule and, by name, which kernels to build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvm_mpq import processes as children


def _compile(job: dict[str, Any]) -> None:
    import tvm
    from tvm.support import cc

    from tvm_mpq.kernels.registry import kernel_from_json

    code = json.loads(Path(job["code"]).read_text(encoding="utf-8"))
    functions = {gvar.name_hint: func for gvar, func in tvm.ir.load_json(code["module"]).functions.items()}
    functions |= {name: kernel_from_json(data).build() for name, data in code["kernels"].items()}
    target = tvm.target.Target(job["target"])
    for name, func in functions.items():
        module = tvm.IRModule({name: func.with_attr("global_symbol", name)})
        tvm.compile(module, target=target).mod.write_to_file(job["objects"][name])
    link = cc.cross_compiler(job["linker"]) if job["linker"] else cc.create_shared
    link(job["library"], [job["objects"][name] for name in functions])


def main() -> None:
    _, messages = children.enter()
    import tvm_mpq.kernels  # noqa: F401  before the first job, whose time it would cost

    children.reply({"ready": True})
    while True:
        job = messages.get()
        try:
            _compile(job)
        except Exception as e:  # noqa: BLE001  whatever the compiler says is this kernel's result
            lines = [line.strip() for line in str(e).splitlines() if line.strip()]
            # TVM writes the message after the traceback, or alone.
            children.reply({"failure": f"{type(e).__name__}: {lines[-1][:300] if lines else 'no message'}"})
        else:
            children.reply({"failure": None})


if __name__ == "__main__":
    main()
