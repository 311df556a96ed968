"""What an importer hands over, before names and checks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import tvm
from tvm import relax

from tvm_mpq.frontends.reference import Reference
from tvm_mpq.schema import StoredQuantization


@dataclass
class Imported:
    """What an importer made.

    owners: name of the variable that holds a source operator's result -> what the source model calls it. tensors:
    variable -> the tensor of the source model that it holds, by the name that `reference` knows. reference: an
    evaluator of the source model; None where there is none. stored: of a file that was quantized elsewhere, by the
    names of variables.
    """

    mod: tvm.IRModule
    owners: dict[str, str]
    input_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    stored: StoredQuantization | None = None


def abandon(builder: relax.BlockBuilder) -> None:
    """Close the block that an importer left open when it failed; else TVM writes a warning to stderr."""
    with contextlib.suppress(tvm.error.InternalError):
        builder._end_block()
