"""What an importer hands over, before names and checks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import tvm
from tvm import relax


@dataclass
class Imported:
    """`owners`: name of the variable that holds a source operator's result -> what the source model calls it."""

    mod: tvm.IRModule
    owners: dict[str, str]
    input_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def abandon(builder: relax.BlockBuilder) -> None:
    """Close the block that an importer left open when it failed; else TVM writes a warning to stderr."""
    with contextlib.suppress(tvm.error.InternalError):
        builder._end_block()
