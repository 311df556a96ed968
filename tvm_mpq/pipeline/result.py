"""What `optimize`, `build` and `finetune` come back with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

from tvm_mpq.errors import OutputError
from tvm_mpq.pipeline.loaded import LoadedModel, Tensors
from tvm_mpq.pipeline.options import check_output
from tvm_mpq.report import notebook, plot
from tvm_mpq.report.answers import BuildReport
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.schema import Plan

R = TypeVar("R", OptimizeReport, BuildReport)


@dataclass(frozen=True)
class Result(Generic[R]):
    """A network that was built. `report` is the JSON object of the command line's contract.

    `work` holds the built files until `save` copies them; it goes away with this object. In a notebook it shows itself.
    """

    plan: Plan
    report: R
    work: TemporaryDirectory[str]

    @property
    def folder(self) -> Path:
        """Where the built files stand now."""
        return Path(self.work.name)

    def save(self, out: str | Path) -> R:
        """Write model.so, plan.json and report.html; returns the report with the paths. Raises OutputError."""
        target = check_output(out)
        names = sorted(path.name for path in self.folder.iterdir())
        try:
            for name in names:
                part = target / f".{name}.part"  # whoever reads meanwhile, or after a kill, finds whole files
                shutil.copy2(self.folder / name, part)
                part.replace(target / name)
        except OSError as e:
            raise OutputError(f"cannot write results to {str(out)!r}: {e.strerror}") from e
        return {**self.report, "artifacts": {name: str(target / name) for name in names}}

    def run(self, x: Tensors) -> Any:
        """Outputs of one run in this process; see `LoadedModel.run`. To run often, load once: `load_model`."""
        return LoadedModel(self.folder).run(x)

    def table(self) -> list[dict[str, Any]]:
        """A row for each quantizable operator, in the network's order; `pandas.DataFrame(result.table())` takes it.

        Always `operator` and `precision`; after `optimize` also `workload`, `latency_us`, `latency_8bit_us`, `loss`.
        """
        return notebook.table(self.report)

    def plot(self, name: str = "pareto") -> plot.Picture:
        """A picture of what `optimize` found, which a notebook shows; `.save("pareto.svg")` writes it.

        name: `pareto`, latency against loss of each plan; `tradeoff`, loss against saving of each candidate.
        Raises InvalidValueError for another name, and where there is nothing to draw.
        """
        return plot.plot(self.report, name)

    def _repr_html_(self) -> str:
        return notebook.view(self.report)
