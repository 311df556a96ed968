"""The report of a built folder, read again: for the terminal, and as a page made anew."""

from __future__ import annotations

from pathlib import Path

from tvm_mpq.pipeline.options import check_output
from tvm_mpq.report import write_report
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.stored import read_report


def reread(folder: Path) -> OptimizeReport:
    """The JSON object that `optimize` wrote; `report.html` is made again from it.

    Raises
    ------
    MissingFileError
        If the folder holds no report.json.
    FileFormatError
        If that file is not what `optimize` writes.
    OutputError
        If the folder cannot be written.
    """
    report = read_report(folder / "report.json")
    write_report(report, check_output(folder) / "report.html")
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    return {**report, "artifacts": {name: str(folder / name) for name in names}}
