"""Writes the folder that goes to a device: see `docs/deployment.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from tvm_mpq.deploy.runtime import RuntimePackages, architecture
from tvm_mpq.report.exported import ExportedFile, ExportReport
from tvm_mpq.report.text import size

EXAMPLE = "example"


@dataclass(frozen=True)
class Example:
    """Inputs by name, in the network's order, and the outputs that Python computed; None where it could not."""

    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Sequence[npt.NDArray[Any]] | None


@dataclass(frozen=True)
class NetworkFacts:
    """What is said of a network: its name, its target and the ISA features that takes, precisions of its operators."""

    name: str
    target: str
    isa_features: Sequence[str]
    precisions: str
    threads: int


def export(
    library: Path, deployed: NetworkFacts, runtime: RuntimePackages, example: Example, out: Path
) -> ExportReport:
    """Write everything into `out`, which is there.

    Raises
    ------
    TargetMismatchError, MissingFileError
        If the runtime does not fit the library.
    OSError
        If a file cannot be written.
    """
    model = library.read_bytes()
    files: dict[str, bytes] = {"model.so": model}
    files |= {f"lib/{file.name}": file.read_bytes() for file in runtime.libraries(model)}
    on_device = list(files)
    files |= {f"include/{path}": file.read_bytes() for path, file in runtime.headers()}
    files |= {f"licences/TVM-{file.name}": file.read_bytes() for file in runtime.licences()}
    sources = resources.files("tvm_mpq.deploy").joinpath("cpp")
    files |= {file.name: file.read_bytes() for file in sources.iterdir()}
    for path, data in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
    inputs, outputs = _write_example(example, out)
    report: ExportReport = {
        "out": str(out),
        "architecture": architecture(model),
        "runtime": runtime.source,
        "on_device": [_entry(path, len(files[path])) for path in on_device],
        "sources_bytes": sum(len(data) for path, data in files.items() if path not in on_device),
        "example": {"inputs": inputs, "outputs": outputs},
    }
    (out / "README.md").write_text(_readme(report, deployed, example), encoding="utf-8")
    return report


def _write_example(example: Example, out: Path) -> tuple[list[str], list[str]]:
    """Paths of the .npy files. Files are numbered: an input's name may hold anything."""
    (out / EXAMPLE).mkdir(exist_ok=True)
    paths: dict[str, list[str]] = {}
    for kind, arrays in (("input", list(example.inputs.values())), ("output", list(example.outputs or []))):
        paths[kind] = [f"{EXAMPLE}/{kind}{i}.npy" for i in range(len(arrays))]
        for path, array in zip(paths[kind], arrays, strict=True):
            np.save(out / path, np.ascontiguousarray(array), allow_pickle=False)
    return paths["input"], paths["output"]


def _entry(path: str, count: int) -> ExportedFile:
    return {"path": path, "bytes": count}


def _readme(report: ExportReport, deployed: NetworkFacts, example: Example) -> str:
    loader = jinja2.PackageLoader("tvm_mpq.deploy")
    environment = jinja2.Environment(  # Markdown for people, no page: nothing is escaped
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["size"] = size
    tensors = [
        (name, " x ".join(map(str, array.shape)) or "a single number", str(array.dtype))
        for name, array in example.inputs.items()
    ]
    total = sum(file["bytes"] for file in report["on_device"])
    return environment.get_template("README.md.j2").render(r=report, d=deployed, tensors=tensors, total=total)
