"""Bits along the network: a cell an operator, weights above activations."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.report.contract import OperatorChoice
from tvm_mpq.report.pictures.palette import Shade, parts, shade


@dataclass(frozen=True)
class StripCell:
    """One operator. weights, activations: what is written, and its colour."""

    title: str
    weights: tuple[str, Shade]
    activations: tuple[str, Shade]


def strip(operators: list[OperatorChoice]) -> list[StripCell]:
    """In the network's order."""
    cells = []
    for operator in operators:
        precision = str(operator.get("precision"))
        weights, activations = parts(precision)
        cells.append(
            StripCell(
                f"{operator.get('name')}: {precision}",
                (str(weights), shade(weights)),
                (str(activations), shade(activations)),
            )
        )
    return cells


def legend(operators: list[OperatorChoice]) -> list[tuple[str, Shade]]:
    """Each bit-width and float type that occurs, floats last."""
    found = {bits for o in operators for bits in parts(str(o.get("precision")))}
    ordered = sorted(found, key=lambda bits: (isinstance(bits, str), str(bits)))
    return [(f"{bits} bit" if isinstance(bits, int) else bits, shade(bits)) for bits in ordered]
