"""Results in, text and pictures out. The command line's tables and progress are in `tables` and `progress`."""

from __future__ import annotations

from tvm_mpq.report.html import write_report

__all__ = ["write_report"]
