"""tvm-mpq: mixed-precision networks for Apache TVM, measured on the device, chosen exactly, built into one library.

>>> import tvm_mpq as mpq
>>> mpq.Budget(latency_ratio=0.75)
Budget(latency_ratio=0.75, latency_ms=None, size_mb=None, max_drop=None, energy_mj=None)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_mpq.schema import Budget, Plan, Precision

if TYPE_CHECKING:
    from tvm_mpq.pipeline import Result
    from tvm_mpq.report.answers import SearchReport
    from tvm_mpq.report.contract import OptimizeReport

__version__ = "0.1.0"

__all__ = ["Budget", "Plan", "Precision", "optimize", "search"]


def optimize(
    model: Any, *, target: Any = "local", data: Any = None, budget: Budget | None = None, **options: Any
) -> Result[OptimizeReport]:
    """Find, build and verify the fastest library that keeps the budget.

    Parameters
    ----------
    model
        Path (.onnx, .tflite, .pt2), `torch.nn.Module` (with `example_inputs=`), ExportedProgram, or Relax IRModule.
    target
        A name from `tvm-mpq targets`, "local", or a `tvm.target.Target`.
    data
        Calibration: path of an `.npz`, mapping from input name to float32[samples, ...], or one array. None =
        synthetic data, which the report says.
    budget
        What is allowed; None = at most one accuracy point below fp32.
    **options
        Further fields of `tvm_mpq.pipeline.Options` (eval_data, input_shapes, threads, db, ...).

    Returns
    -------
    Result
        `save(folder)` writes model.so, plan.json and report.html.

    Raises
    ------
    MPQError
        One line that says what is wrong and how to mend it.
    """
    from tvm_mpq.pipeline import Options, optimize_network

    return optimize_network(Options(model, target=target, data=data, budget=budget or Budget(), **options))


def search(
    model: Any, *, target: Any = "local", data: Any = None, points: int = 8, axis: str = "latency", **options: Any
) -> SearchReport:
    """What each budget would buy: plans between the cheapest and the least lossy, uniform ones beside them.

    Parameters
    ----------
    model, target, data
        As of `optimize`.
    points
        Budgets swept, both ends included.
    axis
        `latency` or `size`, against the loss that the tables add up.
    **options
        Further fields of `tvm_mpq.pipeline.Options`: `method` ("ilp", "greedy", "amed", "random", "uniform"), `seed`,
        `evaluations`, `free_bits`, ...

    Returns
    -------
    dict
        As `tvm-mpq search --json` prints it; plans that another one beats are marked `dominated`.

    Raises
    ------
    MPQError
        One line that says what is wrong and how to mend it.
    """
    from tvm_mpq.pipeline import Options, search_network

    return search_network(Options(model, target=target, data=data, **options), points=points, axis=axis)
