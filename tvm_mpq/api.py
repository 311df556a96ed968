"""The functions of `tvm_mpq`: each is one job of the command line, with typed keywords, and imports TVM when called.

In one file: it is the list of what a user may call, keyword by keyword.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mpq.keywords import (
    CompareKeywords,
    ModelKeywords,
    OptimizeKeywords,
    SearchKeywords,
    WorkKeywords,
    spelled_out,
)
from tvm_mpq.schema import Budget

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tvm_mpq.pipeline import LoadedModel, Result
    from tvm_mpq.report.answers import (
        BuildReport,
        CompareReport,
        InspectReport,
        RunReport,
        SearchReport,
        SensitivityReport,
        TuneReport,
    )
    from tvm_mpq.report.checked import CheckReport
    from tvm_mpq.report.contract import OptimizeReport
    from tvm_mpq.report.exported import ExportReport
    from tvm_mpq.report.forecast import ForecastReport


@spelled_out(OptimizeKeywords)
def optimize(
    model: Any, *, budget: Budget | None = None, **options: Unpack[OptimizeKeywords]
) -> Result[OptimizeReport]:
    """Find, build and verify the fastest library that keeps the budget.

    Parameters
    ----------
    model
        Path (.onnx, .tflite, .pt2), `torch.nn.Module` (with `example_inputs`), ExportedProgram, or Relax IRModule.
    budget
        What is allowed; None = at most one accuracy point below fp32.
    **options

    Returns
    -------
    Result
        `save(folder)` writes model.so, plan.json and report.html; `run(x)`, `table()`, `plan` and `report` are at hand.

    Raises
    ------
    MPQError
        One line that says what is wrong and how to mend it; InfeasibleError where no plan keeps the budget.
    """
    from tvm_mpq.pipeline import Options, optimize_network

    return optimize_network(Options(model, budget=budget or Budget(), **options))


@spelled_out(OptimizeKeywords)
def forecast(model: Any, *, budget: Budget | None = None, **options: Unpack[OptimizeKeywords]) -> ForecastReport:
    """What `optimize` would measure, and how long that would take; nothing is measured.

    Parameters
    ----------
    model, budget
        As of `optimize`.
    **options

    Returns
    -------
    dict
        As `tvm-mpq optimize --dry-run --json` prints it.
    """
    from tvm_mpq.pipeline import Options, forecast_network

    return forecast_network(Options(model, budget=budget or Budget(), **options))


@spelled_out(SearchKeywords)
def search(
    model: Any,
    *,
    points: int = 8,
    axis: str = "latency",
    budget: Budget | None = None,
    plans: str | Path | None = None,
    **options: Unpack[SearchKeywords],
) -> SearchReport:
    """What each budget would buy: plans between the cheapest and the least lossy, uniform ones beside them.

    Parameters
    ----------
    model
        As of `optimize`.
    points
        Budgets swept, both ends included.
    axis
        `latency`, `size` or, of a simulated machine that gives it, `energy`, against the loss that the tables add up.
    budget
        That the searched plans keep, its drop aside; None = none.
    plans
        Folder that gets every plan as a JSON file; None = none is written.
    **options

    Returns
    -------
    dict
        As `tvm-mpq search --json` prints it; plans that another one beats are marked `dominated`.
    """
    from tvm_mpq.pipeline import Options, search_network

    return search_network(Options(model, budget=budget or Budget(), **options), points=points, axis=axis, plans=plans)


@spelled_out(CompareKeywords)
def compare(
    model: Any,
    *,
    methods: Sequence[str] = ("all",),
    budgets: Sequence[float] = (0.9, 0.8, 0.7, 0.6),
    measure: bool = False,
    axis: str = "latency",
    budget: Budget | None = None,
    **options: Unpack[CompareKeywords],
) -> CompareReport:
    """What each search method finds within each budget, beside the solver's proven bound.

    Parameters
    ----------
    model
        As of `optimize`.
    methods
        Of `ilp`, `ohq`, `greedy`, `amed`, `haq`, `freebits`, `random`, `uniform`; or `all`.
    budgets
        Shares of what uniform 8 bit takes of `axis`.
    measure
        Also build every plan and time it, in turns with the others.
    axis
        `latency` or, of a simulated machine that gives it, `energy`.
    budget
        That every plan keeps beside these; None = none.
    **options

    Returns
    -------
    dict
        As `tvm-mpq compare --json` prints it.
    """
    from tvm_mpq.pipeline import Options, compare_methods

    asked = Options(model, budget=budget or Budget(), **options)
    return compare_methods(asked, methods=methods, budgets=budgets, measure=measure, axis=axis)


@spelled_out(WorkKeywords)
def tune(
    model: Any, *, trials: int | None = None, minutes: float | None = None, **options: Unpack[WorkKeywords]
) -> TuneReport:
    """Search faster kernels for a model's layers; `optimize`, `search` and `build` then use what was found.

    Parameters
    ----------
    model
        As of `optimize`.
    trials
        Candidates to measure at most, beside the defaults; None = no limit.
    minutes
        After which nothing new is begun; None = no limit.
    **options

    Returns
    -------
    dict
        As `tvm-mpq tune --json` prints it.
    """
    from tvm_mpq.pipeline import Options, tune_network

    return tune_network(Options(model, **options), trials=trials, minutes=minutes)


@spelled_out(WorkKeywords)
def sensitivity(model: Any, **options: Unpack[WorkKeywords]) -> SensitivityReport:
    """What each operator would lose at each precision, on its own.

    Parameters
    ----------
    model
        As of `optimize`.
    **options

    Returns
    -------
    dict
        As `tvm-mpq sensitivity --json` prints it.
    """
    from tvm_mpq.pipeline import Options, network_sensitivity

    return network_sensitivity(Options(model, **options))


@spelled_out(ModelKeywords)
def inspect(model: Any, **options: Unpack[ModelKeywords]) -> InspectReport:
    """A model's operators, their workloads and candidate precisions; nothing is measured.

    Parameters
    ----------
    model
        As of `optimize`.
    **options

    Returns
    -------
    dict
        As `tvm-mpq inspect --json` prints it.
    """
    from tvm_mpq.pipeline import Options, inspect_network

    return inspect_network(Options(model, **options))


@spelled_out(WorkKeywords)
def build(
    model: Any,
    *,
    uniform: str | None = None,
    keep: Sequence[str] = (),
    plan: str | Path | None = None,
    **options: Unpack[WorkKeywords],
) -> Result[BuildReport]:
    """Build without searching: one precision everywhere, or a plan made before.

    Parameters
    ----------
    model
        As of `optimize`.
    uniform
        Precision of all operators, such as `w8a8`; one that has no kernel for it gets w8a8 or fp32.
    keep
        With `uniform`: operators left at w8a8, by name, or `first` and `last`.
    plan
        A built folder or its plan.json, instead of `uniform`.
    **options

    Returns
    -------
    Result
        As of `optimize`.
    """
    from tvm_mpq.pipeline import Options, build_network

    path = None if plan is None else Path(plan)
    return build_network(Options(model, **options), uniform=uniform, keep=tuple(keep), plan=path)


@spelled_out(WorkKeywords)
def finetune(
    model: Any,
    *,
    uniform: str | None = None,
    keep: Sequence[str] = (),
    plan: str | Path | None = None,
    epochs: int = 30,
    **options: Unpack[WorkKeywords],
) -> Result[BuildReport]:
    """Let the weights of a plan learn from the fp32 network on the calibration data, and build it; needs PyTorch.

    Parameters
    ----------
    model
        As of `optimize`.
    uniform, keep, plan
        As of `build`.
    epochs
        How often the data are gone through.
    **options

    Returns
    -------
    Result
        As of `optimize`.
    """
    from tvm_mpq.pipeline import Options, build_network

    path = None if plan is None else Path(plan)
    asked = Options(model, finetune_epochs=epochs, **options)
    return build_network(asked, uniform=uniform, keep=tuple(keep), plan=path)


def run(
    folder: str | Path,
    data: str | Path,
    *,
    reference: str | Path | None = None,
    rpc: str | None = None,
    key: str | None = None,
    profile: bool = False,
) -> RunReport:
    """Accuracy and latency of a built folder on an `.npz`, in a process of its own or on a board.

    Parameters
    ----------
    folder, data
        What was built, and evaluation data with or without labels.
    reference
        Another built folder to compare outputs with.
    rpc, key
        As of `optimize`.
    profile
        Also the time of each operator.

    Returns
    -------
    dict
        As `tvm-mpq run --json` prints it.
    """
    from tvm_mpq.pipeline import run_folder

    other = None if reference is None else Path(reference)
    return run_folder(Path(folder), Path(data), other, rpc=rpc, key=key, profile=profile)


def export(
    folder: str | Path, out: str | Path, *, data: str | Path | None = None, runtime: str | Path | None = None
) -> ExportReport:
    """Write a built folder with TVM's runtime and a C++ program into `out`: it runs without Python.

    Parameters
    ----------
    folder, out
        What was built, and where to write.
    data
        An `.npz` whose first sample becomes the example; None = synthetic data.
    runtime
        Folder with TVM's wheels for another architecture; None = the packages installed here.

    Returns
    -------
    dict
        As `tvm-mpq export --json` prints it.
    """
    from tvm_mpq.pipeline import export_folder

    paths = [None if path is None else Path(path) for path in (data, runtime)]
    return export_folder(Path(folder), Path(out), data=paths[0], runtime=paths[1])


def check(
    folder: str | Path,
    *,
    latency: float | None = None,
    drop: float | None = None,
    data: str | Path | None = None,
    against: str | Path | None = None,
    rounds: int = 45,
    rpc: str | None = None,
    key: str | None = None,
) -> CheckReport:
    """Whether a built folder is still as fast and as accurate as its report says.

    Parameters
    ----------
    folder
        What `optimize` built.
    latency
        Largest ratio of its time now to then, such as 1.05; None = not checked.
    drop
        Accuracy points that may be lost, image by image; None = not checked.
    data
        The report's evaluation data; None = the file that it names.
    against
        Another built folder to compare with, instead of the report.
    rounds
        In which it is timed: more give a closer interval.
    rpc, key
        As of `optimize`.

    Returns
    -------
    dict
        As `tvm-mpq check --json` prints it; `status` is `holds`, `worse` or `unsettled`.
    """
    from tvm_mpq.pipeline import Wanted, check_folder

    paths = [None if path is None else Path(path) for path in (data, against)]
    wanted = Wanted(latency, drop, rounds)
    return check_folder(Path(folder), wanted, data=paths[0], against=paths[1], rpc=rpc, key=key)


def load_model(folder: str | Path) -> LoadedModel:
    """Load what was built into this process: `load_model("build").run(x)`.

    Raises
    ------
    MissingFileError, FileFormatError
        If the folder holds no built library.
    TargetMismatchError
        If this CPU cannot run it.
    """
    from tvm_mpq.pipeline import LoadedModel

    return LoadedModel(Path(folder))
