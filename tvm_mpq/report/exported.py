"""The answer of `export`, and how it is shown."""

from __future__ import annotations

from typing import TypedDict

from tvm_mpq.report.console import print_facts, print_table, standard_output
from tvm_mpq.report.text import size


class ExportedFile(TypedDict):
    """A file, by its path within the folder."""

    path: str
    bytes: int


class ExportedExample(TypedDict):
    """Paths of .npy files, one a tensor; no outputs where this machine could not compute them."""

    inputs: list[str]
    outputs: list[str]


class ExportReport(TypedDict):
    """What stands in the folder. on_device: what a program needs to run; sources_bytes: all but that and the example.

    runtime: where TVM's libraries come from.
    """

    out: str
    architecture: str
    runtime: str
    on_device: list[ExportedFile]
    sources_bytes: int
    example: ExportedExample


def show_export(report: ExportReport) -> None:
    console = standard_output()
    rows = [(file["path"], size(file["bytes"])) for file in report["on_device"]]
    rows.append(("together", size(sum(file["bytes"] for file in report["on_device"]))))
    print_table(console, ("on the device", "size"), rows, right=("size",))
    compared = "beside Python's outputs" if report["example"]["outputs"] else "without outputs: it cannot run here"
    print_facts(
        console,
        [
            ("architecture", report["architecture"]),
            ("runtime from", report["runtime"]),
            ("headers and sources", size(report["sources_bytes"])),
            ("example", f"{', '.join(report['example']['inputs'])}, {compared}"),
            ("how to go on", f"{report['out']}/README.md"),
        ],
    )
