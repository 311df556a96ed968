"""Pictures of a report on their own: for notebooks, and as SVG files for papers and slides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tvm_mpq.errors import InvalidValueError, OutputError
from tvm_mpq.report.answers import BuildReport
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.pages import TEMPLATES
from tvm_mpq.report.pictures.pareto import pareto
from tvm_mpq.report.pictures.scatter import Scatter
from tvm_mpq.report.pictures.tradeoff import tradeoff

PICTURES: dict[str, tuple[str, Callable[[OptimizeReport], Scatter | None]]] = {
    "pareto": ("latency against loss of each plan", pareto),
    "tradeoff": ("loss against saving of each candidate below 8 bit", lambda report: tradeoff(report["operators"])),
}
"""Name -> what it shows, and what draws it."""


@dataclass(frozen=True)
class Picture:
    """An SVG drawing, which a notebook shows."""

    svg: str

    def save(self, path: str | Path) -> None:
        """Write an .svg file. Raises OutputError."""
        try:
            Path(path).write_text(self.svg, encoding="utf-8", errors="replace")
        except OSError as e:
            raise OutputError(f"cannot write picture {str(path)!r}: {e.strerror}") from e

    def _repr_svg_(self) -> str:
        return self.svg


def plot(report: OptimizeReport | BuildReport, name: str) -> Picture:
    """Draw one picture of a report.

    Raises
    ------
    InvalidValueError
        For an unknown name, or a report that has nothing to draw: only `optimize` finds plans to compare.
    """
    if name not in PICTURES:
        raise InvalidValueError(f"a picture is one of {', '.join(PICTURES)} (got {name!r})")
    what, draw = PICTURES[name]
    drawn = draw(cast(OptimizeReport, report)) if "operators" in report else None
    if drawn is None:
        raise InvalidValueError(f"nothing to draw as {name}: only reports of optimize have candidates to compare")
    return Picture(TEMPLATES.get_template("plot.svg.j2").render(p=drawn, name=what).strip())
