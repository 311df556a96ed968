"""Targets: hardware facts with their source, detection of the CPU at hand, and making a `tvm.target.Target`."""

from tvm_mpq.targets.board import Board
from tvm_mpq.targets.board import require as require_board
from tvm_mpq.targets.cross import linker_for, linker_of
from tvm_mpq.targets.describe import describe_rows
from tvm_mpq.targets.detect import device_identity, local_architecture, local_row, missing_features, require_local
from tvm_mpq.targets.make import features, from_tvm, names, resolve, threads_of, to_tvm, to_tvm_attrs
from tvm_mpq.targets.rows import ROWS, TargetRow

__all__ = [
    "ROWS",
    "Board",
    "TargetRow",
    "describe_rows",
    "device_identity",
    "features",
    "from_tvm",
    "linker_for",
    "linker_of",
    "local_architecture",
    "local_row",
    "missing_features",
    "names",
    "require_board",
    "require_local",
    "resolve",
    "threads_of",
    "to_tvm",
    "to_tvm_attrs",
]
