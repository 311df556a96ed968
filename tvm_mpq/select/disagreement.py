"""Where a plan that loses more by the table gets more images right: why that can be, from what was seen of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CHANCE = 0.1
"""Of a difference between two equally good plans: above it, a difference is called chance."""


@dataclass(frozen=True)
class Held:
    """A plan on images that nothing was chosen on.

    table: the loss that the table gives it. loss: of the whole network, same unit. accuracy: percent. right: of each
    image, in one order; empty where there is nothing that is right or wrong. known: the whole network's loss on the
    images that the table was made of; asked for only where it decides what is said.
    """

    table: float
    loss: float
    accuracy: float
    right: tuple[bool, ...] = ()
    known: Callable[[], float] | None = None


def chance(more: int, fewer: int) -> float:
    """The two-sided probability that fair coins fall at least as unevenly: the exact sign test (McNemar 1947).

    >>> chance(5, 5), chance(8, 0)
    (1.0, 0.0078125)
    """
    count = more + fewer
    tail = sum(math.comb(count, k) for k in range(min(more, fewer) + 1))
    return min(1.0, float(2 * tail / 2**count))


def disagreement(best: Held, others: Mapping[str, Held]) -> str:
    """Why the plan of least table loss is not the most accurate one; empty where it is.

    others: method -> its plan. Spoken of is the most accurate of them.
    """
    if not others or not best.right:
        return ""
    name = max(others, key=lambda key: others[key].accuracy)
    other = others[name]
    if not other.accuracy > best.accuracy:
        return ""
    more, fewer = _apart(other.right, best.right)
    said = (
        f"{name} has {other.accuracy:.2f} % right, ilp {best.accuracy:.2f} %: of {len(best.right)} images {more} are "
        f"right under {name} alone, {fewer} under ilp alone"
    )
    odds = chance(more, fewer)
    if odds > CHANCE:
        return f"{said}; equally good plans differ that much with probability {odds:.2f}, so this is no difference"
    table = f"by the table ilp loses {best.table:.3g}, {name} {other.table:.3g}"
    whole = f"run whole {best.loss:.3g} and {other.loss:.3g}"
    if other.loss < best.loss:
        return f"{said}. {table}, {whole}: {_misranked(best, name, other)}"
    return f"{said}. {table}, {whole}: the table ranks their losses rightly, but loss is not accuracy"


def _misranked(best: Held, name: str, other: Held) -> str:
    """Why the loss of the whole network ranks the two otherwise than the table."""
    if best.known is None or other.known is None:
        return "the losses of operators alone do not add up here, or not on these images"
    ours, theirs = best.known(), other.known()
    there = f"on the images that the table is made of ilp loses {ours:.3g}, {name} {theirs:.3g}"
    if theirs < ours:
        return f"{there} too, so the losses of operators alone do not add up"
    return f"but {there}: the table is right about its images, and these are not like them (trained on, or too few?)"


def _apart(one: Sequence[bool], other: Sequence[bool]) -> tuple[int, int]:
    """Images that only the one has right, and that only the other has."""
    pairs = list(zip(one, other, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
