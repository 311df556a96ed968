"""What `optimize` answers: the JSON object of `--json` and of report.json, as types. Other commands: `answers`.

Keys and units are the command line's contract. A TypedDict is a plain dict when the program runs, so that what a call
from Python returns, what a file holds and what is printed are one thing. Where a class says `total=False`, keys may be
absent; the reports of an older version lack some.

In one file: it is one JSON object, and its parts are read side by side.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Reading(TypedDict, total=False):
    """How a device was at one time: the fields of `targets.health.Health`, None = it does not say.

    warnings: in words what disturbs measurements.
    """

    load: float | None
    governor: str | None
    clock_mhz: float | None
    top_clock_mhz: float | None
    temperature_c: float | None
    throttled: str | None
    throttle_count: int | None
    free_memory_bytes: int | None
    warnings: list[str]


class Readings(TypedDict):
    """Before and after the work."""

    start: Reading
    end: Reading


class LostBoard(TypedDict):
    """A board that stopped answering."""

    board: str
    reason: str
    came_back: bool


class BoardUse(TypedDict):
    """The boards that did the work. used: those left at the end."""

    used: list[str]
    lost: list[LostBoard]
    emulated: bool


class Condition(TypedDict, total=False):
    """The part of every report whose numbers were measured. boards: None = the work was done on this machine."""

    health: Readings | None
    boards: BoardUse | None


class _CandidateCore(TypedDict):
    latency_us: dict[int, float]
    loss: float
    size_bytes: int


class CandidateFigures(_CandidateCore, total=False):
    """One precision of one operator. latency_us: format it emits (32 = float32, 8 = integers) -> microseconds.
    predicted: formats for which it was not measured, absent where there are none."""

    predicted: list[int]


class _OperatorCore(TypedDict):
    name: str
    workload: str
    precision: str
    candidates: dict[str, CandidateFigures]
    latency_us: float
    macs: int


class OperatorChoice(_OperatorCore, total=False):
    """One quantizable operator: what it may be, what it became. workload: its key; precision: among the candidates.

    reason: why it is in floats, or has weights of 1 bit, in a plan of integers.
    """

    reason: str


class AccuracyFigures(TypedDict):
    """Of the three networks, in percent. metric: `top1`, `agreement`, or `relative_error`, of which less is better.

    on_calibration_data: there were no others; of many, those that weights were not rounded on.
    """

    metric: str
    fp32: float
    int8: float
    mixed: float
    hits: dict[str, int]
    samples: int
    on_calibration_data: bool


class SolverRun(TypedDict):
    """How well the plan is proven. status: `optimal` or `time_limit`."""

    name: str
    status: str
    objective: float
    bound: float
    gap: float
    seconds: float


class SpeedupFigures(TypedDict):
    """How many times as fast one network is as another, from rounds with both: median, and its interval at 95 %."""

    median: float
    low: float
    high: float
    rounds: int


class _TriedCore(TypedDict):
    predicted_ms: float
    loss: float
    drop: float


class TriedPlan(_TriedCore, total=False):
    """A plan that was run end to end before the choice. drop, low, high: see `DropFigures`; name: of uniform ones."""

    name: str
    low: float
    high: float
    images: int


class DropFigures(TypedDict):
    """Accuracy points lost to fp32: an estimate, and one-sided bounds, each right with `Judgement.confidence`."""

    estimate: float
    low: float
    high: float
    images: int


class HeldFigures(DropFigures):
    """Counted on images beside fp32: how many only the quantized network has right (`better`), and only fp32."""

    better: int
    worse: int


class UndecidedPlan(TypedDict):
    """A faster plan that may keep the drop, which these images do not show. images_needed: None = no number would."""

    name: str
    predicted_ms: float
    drop: DropFigures
    images_needed: int | None


class NearestPlan(TypedDict):
    """The uniform plan of those that do not keep the drop that comes nearest."""

    name: str
    drop: DropFigures


class RivalShare(TypedDict, total=False):
    """share: of the searched plan's time, the median over the rounds that timed both. Older reports have none."""

    share: float


class RivalPlan(RivalShare):
    """The fastest uniform plan that keeps the drop, built and timed in turns with the searched one."""

    name: str
    latency_ms: float
    searched_ms: float
    chosen: bool


class Judgement(TypedDict, total=False):
    """How the drop was judged before choosing.

    data: `calib` or `eval`. fp32_right: share of images that fp32 has right, None without labels; fp32_sure: its mean
    probability; classes: how many there are, None where the network does not classify. trained_on: whether images look
    trained on; then `mixed_images` pairs of them stood for new ones. near_ties: plans within 2 % of the chosen one's
    latency.
    """

    data: str
    images: int
    fp32_right: float | None
    fp32_sure: float
    classes: int | None
    trained_on: bool
    mixed_images: int
    confidence: float
    plans: int
    seconds: float
    chosen: DropFigures
    undecided: UndecidedPlan | None
    nearest: NearestPlan | None
    rival: RivalPlan | None
    near_ties: list[str]


class Calibration(TypedDict):
    """What the activation ranges stand on."""

    samples: int
    synthetic: bool
    observer: str


class FinetuneReport(TypedDict):
    """How weights learned. On `held` samples kept aside: hits of `fp32`, `before` and `after`, loss before and after.

    kept: the epoch that was best there. seconds_per_epoch: 0 when all of it was known from an earlier call.
    """

    epochs: int
    kept: int
    held: int
    hits: dict[str, int]
    loss: dict[str, float]
    seconds_per_epoch: float


class ImportVerification(TypedDict):
    """How the import was compared with an independent evaluator; skipped: why it was not, else "".

    error: largest difference of an output, in spreads (standard deviations) of it.
    """

    evaluator: str
    error: float
    seconds: float
    skipped: str


class FrontPoint(TypedDict):
    """One plan. name: empty for a point of the front, `chosen` for the plan taken; dominated: another beats it in both.

    status: `optimal`, `time_limit`, or `heuristic` where the method proves nothing; evaluations: plans it priced.
    """

    name: str
    latency_ms: float
    size_mb: float
    energy_mj: float | None  # where the latency source knows it
    loss: float
    dominated: bool
    plan: dict[str, str]
    gap: float
    status: str
    evaluations: int


class PeerTime(TypedDict):
    """What another engine took for the same network on the same device, at another time. measured: the day."""

    engine: str
    latency_ms: float
    measured: str


class LatencyChange(TypedDict):
    """Part of the way from uniform 8 bit to mixed, by the tables. name: an operator, or what is none."""

    name: str
    change_us: float


class _ProvenanceCore(TypedDict):
    created: str
    command: str
    versions: dict[str, str]
    digests: dict[str, str]


class Provenance(_ProvenanceCore, total=False):
    """What the result stands on. command: empty where it came from Python; digests: of model, data and plan.

    eval_file: path of the evaluation data as it was given; empty where they were arrays, or synthetic.
    """

    eval_file: str


class _OptimizeCore(TypedDict):
    operators: list[OperatorChoice]
    plan: dict[str, str]
    latency_ms: dict[str, float]


class OptimizeReport(_OptimizeCore, Condition, total=False):
    """The answer of `optimize`, `report` and `demo`.

    plan: operator -> precision. A dict by network has the keys `fp32`, `int8` (uniform 8 bit) and `mixed`, latency_ms
    also `predicted` (of mixed). budget, correction: fields of `Budget` and `Correction`; nearest_budget: the one
    that was kept where `budget` could not be. latency_entries: how many were `measured`, `cached` (measured before) and
    `predicted`; predictor: its held-out errors, None when none was needed.
    boundaries: conversions between formats. finetune: None = no weights learned. artifacts: name -> path. held: what
    `int8` and `mixed` lose on the evaluation data, where labels or agreement tell. front: plans by the tables, of which
    the losses are sums. waterfall: from the predicted latency of `int8` to that of `mixed`. speedups: `mixed_to_int8`,
    `int8_to_fp32`, `mixed_to_fp32`, without those of too few rounds. sentinel_ratio: time of `mixed` over that of a
    fixed small kernel in the same rounds, by which `check` compares times of another day; None with too few rounds.
    """

    model: str
    target: str
    device: str
    threads: int
    latency_iqr_ms: dict[str, float]
    speedups: dict[str, SpeedupFigures]
    sentinel_ratio: SpeedupFigures | None
    predicted_ms: dict[str, float]
    accuracy: AccuracyFigures
    size_bytes: dict[str, int]
    activation_bytes: dict[str, int]
    weight_bytes: dict[str, int]
    budget: dict[str, float | None] | None
    nearest_budget: dict[str, float | None] | None
    solver: SolverRun
    plans_tried: list[TriedPlan]
    judgement: Judgement
    held: dict[str, HeldFigures]
    correction: dict[str, float]
    latency_entries: dict[str, int]
    predictor: dict[str, Any] | None
    boundaries: list[str]
    front: list[FrontPoint]
    peers: list[PeerTime]
    waterfall: list[LatencyChange]
    provenance: Provenance
    calibration: Calibration
    import_check: ImportVerification
    finetune: FinetuneReport | None
    artifacts: dict[str, str]
