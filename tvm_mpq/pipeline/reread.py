"""The report of a built folder, read again: for the terminal, and as a page made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.pipeline.options import check_output
from tvm_mpq.report import write_report


def reread(folder: Path) -> dict[str, Any]:
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
    path = folder / "report.json"
    if not path.is_file():
        raise MissingFileError(f"no report.json in {str(folder)!r}; tvm-mpq optimize --out {folder} writes one")
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not {"plan", "latency_ms", "operators"} <= report.keys():
            raise ValueError("keys of a report are missing")
    except ValueError as e:
        raise FileFormatError(f"{str(path)!r} is no report of tvm-mpq optimize ({e}); optimize again") from e
    write_report(report, check_output(folder) / "report.html")
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    return {**report, "artifacts": {name: str(folder / name) for name in names}}
