"""What a user asks of `optimize` and the other jobs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm_mpq.calibrate.observers import check_method
from tvm_mpq.calibrate.rounding import ADAROUND, GPTQ, ROUNDINGS
from tvm_mpq.errors import InvalidValueError, MissingDependencyError, OutputError
from tvm_mpq.kernels import OFFERED
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.schema import Budget, Precision, Progress
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.estimated import EstimateLosses
from tvm_mpq.select.methods.haq import LAST, Haq, Learn
from tvm_mpq.select.methods.learned_bits import LearnBits
from tvm_mpq.select.methods.memory import Memories
from tvm_mpq.select.methods.table import ILP, searcher_for
from tvm_mpq.select.problem import Problem
from tvm_mpq.select.searcher import Searcher
from tvm_mpq.simulators.machines import MEASURED_HERE, simulator_named, with_energy
from tvm_mpq.simulators.simulator import Simulator
from tvm_mpq.targets.rapl import energy_counters

SIMULATED_OFFERED = tuple(Precision(weights, activations) for weights in (8, 4, 2) for activations in (8, 4, 2))
"""Precisions that are searched for a simulated machine when nothing else is said: those of the published searches."""

BIT_OPERATIONS, LATENCY = "bitops", "latency"
REGULARISERS = (BIT_OPERATIONS, LATENCY)
"""What bits may cost while they are learned."""

JUDGES = ("calib", "eval")
"""Data on which plans may be judged."""


@dataclass(frozen=True)
class Options:
    """Everything `optimize` needs. See the command line's help for the meaning of each field.

    Raises
    ------
    InvalidValueError
        For an unknown observer, judge or precision, a count below 1, or a budget that nothing can be held against: at
        once, not after an hour of measuring.
    """

    model: Any
    target: Any = "local"
    data: Any = None
    eval_data: Any = None
    budget: Budget = field(default_factory=Budget)
    example_inputs: Any = None
    batch: int | None = 1
    input_shapes: Mapping[str, Sequence[int]] | None = None  # of inputs with dynamic axes, the batch among them
    requantize: bool = False  # a file that was quantized elsewhere: find scales and integers anew
    precisions: Sequence[str] | None = None  # to choose from; None = all that pay on the target, or are usual
    latency_source: str = MEASURED_HERE  # or a simulated machine, for `search` and `compare`
    threads: int | None = None  # None = those of the plan that is built, else 1
    workers: int | None = None  # processes that compile kernels; None = one for each core of this process
    db: str | Path | None = None
    verify_import: bool = True  # compare it with an independent evaluator, on one sample
    rpc: str | None = None  # HOST:PORT
    key: str | None = None  # tracker key
    observer: str = "mse"
    rounding: str = GPTQ
    rounding_samples: int = 128  # that the weights are rounded on
    calibration_samples: int = 64
    sensitivity_samples: int = 32
    check_samples: int = 1000  # for running candidate plans end to end; one of 64 images would be 1.6 points
    finetune_epochs: int = 0  # in which the chosen plan's weights learn from the fp32 network; 0 = not at all
    measure_fraction: float = 1.0  # of the latencies that are missing; the others are predicted
    judge: str = "calib"  # what decides whether a plan keeps the drop: `calib`, or `eval` = eval_data
    nearest: bool = False  # where no plan keeps the budget, build the nearest one
    solver_time_limit_sec: float = 60.0
    method: str = ILP  # that searches plans
    seed: int = 0  # of a method that draws
    evaluations: int | None = None  # plans that a method other than the solver prices at most; None = its default
    method_seconds: float | None = None  # after which such a method ends
    pin_ends: bool = False  # amed and haq hold first and last operator at 8 bits
    cut: str = LAST  # where haq takes bits away to keep a budget: from the last operator on, or where it is `cheapest`
    walks: int | None = None  # of haq's agent; None = as many as the paper's
    free_bits: bool = False  # the free-bits step after the method
    regulariser: str = BIT_OPERATIONS  # what freebits pays for while it learns: bit operations, or the tables' latency
    updates: int | None = None  # of freebits' gates; None = its default
    command: str = ""  # that asks for this, for a report that says how to repeat it
    progress: Progress | None = None
    say: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        check_method(self.observer)
        if self.rounding not in ROUNDINGS:
            raise InvalidValueError(f"rounding must be one of {', '.join(ROUNDINGS)} (got {self.rounding!r})")
        self._check_source()
        if self.rounding == ADAROUND:
            require_torch("rounding adaround", "take rounding gptq, or ")
        if self.finetune_epochs > 0:
            require_torch("fine-tuning")
        _ = self.offered
        if self.judge not in JUDGES:
            raise InvalidValueError(f"judge must be one of {', '.join(JUDGES)} (got {self.judge!r})")
        if self.judge == "eval" and self.eval_data is None:
            raise InvalidValueError("judge 'eval' needs evaluation data to judge on: give them with --eval")
        counts = ("batch", "threads", "workers", "walks", "updates")
        for name in (*counts, *(f"{work}_samples" for work in ("calibration", "sensitivity", "rounding", "check"))):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"{name} must be 1 or more (got {value})")
        if self.finetune_epochs < 0:
            raise InvalidValueError(f"finetune_epochs must be 0 or more (got {self.finetune_epochs})")
        if not 0 < self.measure_fraction <= 1:
            raise InvalidValueError(f"measure_fraction must be above 0 and at most 1 (got {self.measure_fraction:g})")
        if not self.solver_time_limit_sec > 0:
            raise InvalidValueError(f"solver_time_limit_sec must be above 0 (got {self.solver_time_limit_sec:g})")
        if self.regulariser not in REGULARISERS:
            raise InvalidValueError(f"regulariser must be one of {', '.join(REGULARISERS)} (got {self.regulariser!r})")
        self.searcher()

    def _check_source(self) -> None:
        simulator = self.simulator
        if self.budget.energy_mj is not None and (simulator is None or not simulator.gives_energy):
            raise InvalidValueError(
                f"budget energy_mj cannot be kept: {self._no_energy()}; limit latency_ratio, latency_ms, size_mb or "
                f"max_drop instead (got {self.budget.energy_mj:g} mJ)"
            )
        if simulator is None:
            return
        for name, given in (("rpc", self.rpc is not None), ("measure_fraction", self.measure_fraction < 1)):
            if given:
                raise InvalidValueError(
                    f"latency source {self.latency_source!r} is simulated and nothing is measured: leave out {name}"
                )

    @property
    def simulator(self) -> Simulator | None:
        """The machine that latencies are simulated of; None where they are measured."""
        return simulator_named(self.latency_source)

    def require_axis(self, axis: str) -> None:
        """Raises InvalidValueError where plans are to be weighed by an energy that the latency source does not give."""
        if axis == "energy" and (self.simulator is None or not self.simulator.gives_energy):
            raise InvalidValueError(f"axis energy cannot be taken: {self._no_energy()}, or take another axis")

    def _no_energy(self) -> str:
        """Why the latency source gives no energies, and which give them."""
        why = ""
        if self.simulator is None:
            counters, reason = energy_counters()
            text = (
                f"{reason}, and one would not tell kernels apart" if not counters else "counters are of whole packages"
            )
            why = f" ({text})"
        return (
            f"latency source {self.latency_source!r} gives no energies{why}; take one that does: "
            f"{', '.join(with_energy())}"
        )

    def require_measured(self, job: str) -> None:
        """Raises InvalidValueError where latencies are simulated: `job` needs the device they speak of."""
        if self.simulator is not None:
            raise InvalidValueError(
                f"{job} builds networks and times them on this device, but latency source {self.latency_source!r} "
                "prices plans for a machine that is not here: use search, whose --plans writes them, or compare"
            )

    @property
    def offered(self) -> tuple[Precision, ...]:
        """The precisions to choose from; fp32 and w8a8 are there whatever `precisions` says."""
        if self.precisions is not None:
            return tuple(Precision.parse(str(p)) for p in self.precisions)
        return OFFERED if self.simulator is None else SIMULATED_OFFERED

    def searcher(
        self,
        method: str | None = None,
        bits: LearnBits | None = None,
        losses: EstimateLosses | None = None,
        memories: Memories | None = None,
    ) -> Searcher:
        """A new searcher of the method named, or of the one that was asked for.

        bits: what learns them for `freebits`, from the network and data of a run; without it that one cannot search.
        losses: what estimates those of `ohq`; without it, the tables' losses are taken for estimates. memories: where
        searches that take long keep their states.

        Raises
        ------
        InvalidValueError
            For unknown names and efforts that are none.
        MissingDependencyError
            If the method needs an extra that is not installed.
        """
        method = method or self.method
        return searcher_for(
            method,
            Effort(self.seed, self.evaluations, self.method_seconds, time.monotonic, self.progress, memories),
            time_limit_sec=self.solver_time_limit_sec,
            pin_ends=self.pin_ends,
            cut=self.cut,
            walks=self.walks,
            free_bits=self.free_bits,
            learn=_agent() if method == Haq.name else None,
            bits=bits or _nothing_learned,
            losses=losses,
        )

    def tell(self, text: str) -> None:
        """A message for the user, if somebody listens."""
        if self.say:
            self.say(text)


def require_torch(what: str = "fine-tuning", instead: str = "") -> None:
    """Raises MissingDependencyError when PyTorch, which `what` needs, is not installed. It is not imported here.

    instead: what else can be done.
    """
    try:
        found = importlib.util.find_spec("torch") is not None
    except ValueError:  # somebody has hidden it
        found = False
    if not found:
        raise MissingDependencyError(f"{what} needs PyTorch; {instead}install it with pip install 'tvm-mpq[torch]'")


def _agent() -> Learn:
    """The agent of `haq`. Raises MissingDependencyError when the extra that it needs is not installed."""
    try:
        from tvm_mpq.agents.ddpg import learn
    except ImportError as e:
        raise MissingDependencyError(
            "method haq needs stable-baselines3, gymnasium and PyTorch; install them with pip install 'tvm-mpq[rl]'"
        ) from e
    return learn


def _nothing_learned(problem: Problem) -> Sequence[Mapping[str, Precision]]:
    """Stands for what learns bits where a searcher is made to see that its options are right. Raises."""
    raise InvalidValueError("method freebits needs what learns bits from the network and data of a run (got None)")


def check_output(out: str | Path) -> Path:
    """Make the folder and prove that it can be written, before hours of work. Raises OutputError."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".tvm_mpq_probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise OutputError(f"cannot write to output folder {str(out)!r}: {e.strerror}; choose another with --out") from e
    return path


def to_json(report: OptimizeReport) -> str:
    return json.dumps(report, indent=1, sort_keys=True, allow_nan=False)
