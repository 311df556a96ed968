"""report.json read back, every value checked against the types of `contract`."""

from __future__ import annotations

from pathlib import Path

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.schema import json_types


def read_report(path: Path) -> OptimizeReport:
    """The report that `optimize` wrote, as it was in memory: keys that are numbers are numbers again.

    Keys that the contract does not name are kept as they are.

    Raises
    ------
    MissingFileError
        If there is no such file.
    FileFormatError
        If it is not what `optimize` writes; the text says where.
    """
    try:
        found = json_types.parse(path.read_text(encoding="utf-8"))
        report: OptimizeReport = json_types.checked(found, OptimizeReport, "report")
    except FileNotFoundError as e:
        folder = str(path.parent)
        raise MissingFileError(f"no report.json in {folder!r}; tvm-mpq optimize --out {folder} writes one") from e
    except (ValueError, OSError) as e:
        raise FileFormatError(f"{str(path)!r} is no report of tvm-mpq optimize ({e}); optimize again") from e
    return report
