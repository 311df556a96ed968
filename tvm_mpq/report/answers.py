"""What the commands beside `optimize` answer: the JSON objects of their `--json`, as types.

Keys and units are the command line's contract. Those of `devices` and `db`: `inventory`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from tvm_mpq.report.contract import Condition, FinetuneReport, FrontPoint, ImportVerification
from tvm_mpq.schema import LeftOutReason


class InspectedOperator(TypedDict):
    """One operator as it was imported. workload, candidates: empty where it has none; shape: of its output."""

    name: str
    kind: str
    workload: str
    shape: list[int]
    macs: int
    parameters: int
    candidates: list[str]


class Totals(TypedDict):
    """Of a whole network."""

    operators: int
    quantizable: int
    macs: int
    parameters: int


class LeftOut(TypedDict):
    """A precision that so many operators do not have as a candidate."""

    precision: str
    reason: LeftOutReason
    operators: int


class InspectReport(TypedDict):
    """The answer of `inspect`. inputs: name -> [shape, dtype]; left_out: of the precisions that could be chosen."""

    model: str
    target: str
    inputs: dict[str, tuple[list[int], str]]
    notes: list[str]
    operators: list[InspectedOperator]
    left_out: list[LeftOut]
    totals: Totals


class TunedKernel(TypedDict):
    """A kernel better than the default one. uses: operators of the network that it may serve."""

    workload: str
    precision: str
    out_bits: int
    default_us: float
    best_us: float
    family: str
    knobs: dict[str, Any]
    uses: int


class TuneReport(Condition):
    """The answer of `tune`. sum_ms: all kernels of the network, `before` and `after`."""

    model: str
    target: str
    device: str
    trials: int
    candidates_left: int
    ended: str
    seconds: float
    sum_ms: dict[str, float]
    tuned: list[TunedKernel]
    latency_entries: dict[str, int]


class OutputLoss(TypedDict):
    """What one operator at one precision does to the network's output. disagree, wrong: shares of the samples."""

    loss: float
    disagree: float
    wrong: float | None


class OperatorLosses(TypedDict):
    """losses: precision -> loss."""

    name: str
    workload: str
    losses: dict[str, OutputLoss]


class SensitivityReport(Condition):
    """The answer of `sensitivity`. metric: `kl` or `mse`."""

    model: str
    target: str
    metric: str
    samples: int
    synthetic: bool
    operators: list[OperatorLosses]


class SearchReport(Condition):
    """The answer of `search`. axis: `latency`, `size` or `energy`. plans: files written, by the plans' names."""

    model: str
    method: str
    latency_source: str
    axis: str
    points: list[FrontPoint]
    latency_entries: dict[str, int]
    plans: dict[str, str]


class MethodRow(TypedDict):
    """What one method found within one budget, a share of what uniform 8 bit takes of the report's `axis`.

    None: it found nothing, for the `reason`; of measured_ms, accuracy and held_loss, that they were not asked for.
    held_loss: of the whole network on the evaluation data, in the unit of the table's losses. bound: no plan
    within the budget loses less. gap: the plan's loss beyond it, as a share of the larger. ratio: of the axis, to
    8 bit. trace, of a method that samples: evaluations, score, least loss within the budget so far, share accepted so
    far.
    """

    method: str
    budget: float
    reason: str
    bound: float | None
    gap: float | None
    seconds: float
    loss: float | None
    predicted_ms: float | None
    ratio: float | None
    size_mb: float | None
    energy_mj: float | None
    evaluations: int
    status: str
    plan: dict[str, str]
    measured_ms: float | None
    accuracy: float | None
    held_loss: float | None
    trace: list[tuple[int, float, float, float]]


class UniformRow(TypedDict):
    """One precision everywhere, on the evaluation data. predicted_ms: None where the latency source has no floats."""

    precision: str
    predicted_ms: float | None
    accuracy: float
    held_loss: float


class CompareReport(Condition):
    """The answer of `compare`. metric: of the rows' accuracy, empty where it was not asked for. int8_mj: None where the
    latency source gives no energies. disagreements: a line for each budget under which a plan that loses more by the
    table than the solver's gets more of the evaluation data right, and why. uniform: empty without such data."""

    model: str
    target: str
    device: str
    latency_source: str
    axis: str
    int8_ms: float
    int8_mj: float | None
    seed: int
    free_bits: bool
    metric: str
    disagreements: list[str]
    uniform: list[UniformRow]
    rows: list[MethodRow]
    latency_entries: dict[str, int]


class _Finetuned(TypedDict, total=False):
    finetune: FinetuneReport


class BuildReport(_Finetuned):
    """The answer of `build` and `finetune`; only a network whose weights learned says how."""

    model: str
    target: str
    plan: dict[str, str]
    size_bytes: int
    activation_bytes: int
    weight_bytes: int
    import_check: ImportVerification
    artifacts: dict[str, str]


class RunLatency(TypedDict):
    """Of one whole network, milliseconds."""

    median: float
    iqr: float
    threads: int


class RunAccuracy(TypedDict):
    """Against labels, or against the reference folder."""

    metric: str
    value: float
    hits: int
    samples: int


class OutputDifference(TypedDict):
    """To the outputs of the reference folder."""

    largest_absolute: float
    mean_relative_norm: float


class _RunCore(TypedDict):
    folder: str
    latency_ms: RunLatency | None
    load_ms: float | None
    first_run_ms: float | None
    samples: int


class CallTime(TypedDict):
    """One call of a kernel in a run, timed alone."""

    operator: str
    kernel: str
    us: float


class RunReport(_RunCore, total=False):
    """The answer of `run`; accuracy with labels or a reference, difference with a reference, profile when asked for.

    unsteady: why there is no latency, where there is none.
    """

    unsteady: str
    accuracy: RunAccuracy
    difference: OutputDifference
    profile: list[CallTime]


class Check(TypedDict):
    """One thing looked at. status: `ok`, `missing` = needed and not there, `warning` = lacks an option or disturbs."""

    name: str
    status: str
    detail: str
    mend: str


class DoctorReport(TypedDict):
    """The answer of `doctor`. ok: nothing needed is missing."""

    ok: bool
    checks: list[Check]
