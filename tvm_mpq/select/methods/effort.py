"""How much a search method may do, and where it stood meanwhile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import Progress
from tvm_mpq.select.methods.memory import Memories


@dataclass(frozen=True)
class Effort:
    """How much a method may do. None = its own default; whichever ends first ends the search.

    seed: equal seeds give equal plans, as long as seconds do not end the search. evaluations: plans priced. seconds: by
    `clock`, which is needed for them. memories: where methods that take long keep their states; a search that was ended
    goes on from there, and finds what one that was not ended finds.

    Raises
    ------
    InvalidValueError
        For evaluations or seconds that are not above 0, or seconds without a clock.
    """

    seed: int = 0
    evaluations: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] | None = None
    progress: Progress | None = None
    memories: Memories | None = None

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise InvalidValueError(f"evaluations must be 1 or more (got {self.evaluations})")
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidValueError(f"seconds of a search must be above 0 (got {self.seconds:g})")
        if self.seconds is not None and self.clock is None:
            raise InvalidValueError("a search limited in seconds needs a clock (got None)")


@dataclass(frozen=True)
class TracePoint:
    """Where a method that draws stood. score: of the present plan, of `haq` its reward; best: least objective within
    the limits by then; acceptance: share of proposals taken by then, of `haq` of walks that no limit had to cut."""

    evaluations: int
    score: float
    best: float
    acceptance: float

    def row(self) -> list[float | None]:
        """As JSON holds it, which knows no infinity."""
        return [x if math.isfinite(x) else None for x in dataclasses.astuple(self)]

    @classmethod
    def of(cls, row: Sequence[float | None]) -> TracePoint:
        """What `row` was made of."""
        evaluations, *rest = (math.inf if x is None else x for x in row)
        return cls(int(evaluations), *rest)
