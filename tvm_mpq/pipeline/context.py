"""What all commands share while they run: model, database, compiled kernels, and the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from tvm_mpq import targets
from tvm_mpq.calibrate.data import Dataset, Parts, load_dataset, parted
from tvm_mpq.calibrate.learn import Learner
from tvm_mpq.calibrate.rounding import ADAROUND
from tvm_mpq.costs.profiler import KernelProfiler
from tvm_mpq.errors import TargetMismatchError
from tvm_mpq.execute.board_runtime import BoardRuntime
from tvm_mpq.execute.build_cache import NetworkBuildCache
from tvm_mpq.execute.host_runtime import HostRuntime
from tvm_mpq.execute.import_check import ImportCheck
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.verification import DECLINED, verified
from tvm_mpq.report.contract import BoardUse, Condition, LostBoard, Reading, Readings
from tvm_mpq.schema import DeviceIdentity, Plan
from tvm_mpq.targets import TargetRow, health
from tvm_mpq.targets.cpuinfo import usable_cores
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.results import ResultStore
from tvm_mpq.tuning.database.store import default_path
from tvm_mpq.tuning.devices.board_session import parse_address
from tvm_mpq.tuning.devices.boards import Boards
from tvm_mpq.tuning.devices.pool import DevicePool, ThisMachine
from tvm_mpq.tuning.devices.probe import Probe
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure import presets

_T = TypeVar("_T")

UNPACKAGED = ("arm", "riscv64")
"""Architectures for which TVM publishes no packages: a board has to build its RPC server from source."""


@dataclass
class RunContext:
    """What all commands share: the prepared network, where it runs, and what is known so far. A context manager."""

    options: Options
    prepared: Prepared
    db: LatencyDatabase
    store: KernelStore
    pool: DevicePool
    device: DeviceIdentity
    health: Reading  # of the device, before the work
    import_check: ImportCheck = DECLINED
    measuring_sec: float = 0.0  # that filling tables took so far
    _interpreter: tuple[Any, Interpreter] | None = None  # and the connection it belongs to

    @cached_property
    def data(self) -> Dataset:
        """The calibration data, read once. Raises as `load_dataset` does."""
        return load_dataset(self.options.data, self.prepared.inputs)

    @cached_property
    def parts(self) -> Parts:
        """The calibration data in two: what weights are rounded on, and what plans are judged on."""
        runs = self.options.rounding_samples
        if self.options.rounding == ADAROUND:
            from tvm_mpq.training.settings import ReconstructionSettings

            runs = max(runs, ReconstructionSettings().samples // self.data.batch)
        return parted(self.data, runs)

    @cached_property
    def learner(self) -> Learner:
        return Learner(self.prepared, self.db, self.options, self.store)

    def profiler(self) -> KernelProfiler:
        return KernelProfiler(
            self.prepared.row.name,
            self.device,
            self.store,
            self.db,
            self.pool,
            presets.KERNELS,
            self.options.progress,
        )

    def build_cache(self, sample: Sample, codes_of: Callable[[Plan], WeightCodes]) -> NetworkBuildCache:
        return NetworkBuildCache(
            self.prepared,
            self.store,
            self.pool,
            self.device,
            self.db,
            sample,
            codes_of,
            say=self.options.tell,
            progress=self.options.progress,
        )

    def interpret(self, work: Callable[[Interpreter], _T]) -> _T:
        """Do `work` with the interpreter: in this process, or on a board; there anew when the board was lost."""
        if isinstance(self.pool, Boards):
            return self.pool.do(lambda session: work(self._on(session)))
        return work(self._here())

    def host_interpreter(self) -> Interpreter | None:
        """The interpreter in this process; None where code for the target does not run here."""
        return None if targets.missing_features(self.prepared.row) else self._here()

    def _here(self) -> Interpreter:
        prepared = self.prepared
        if self._interpreter is None:
            target = prepared.tvm_target()
            runtime = HostRuntime(self.store, prepared.graph, target, prepared.features, prepared.threads)
            self._interpreter = None, Interpreter(prepared.graph, runtime)
        return self._interpreter[1]

    def _on(self, session: Session) -> Interpreter:
        """The interpreter of this connection; one of an older connection has lost all it held."""
        prepared = self.prepared
        key = (session, session.generation)
        if self._interpreter is None or self._interpreter[0] != key:
            self._interpreter = None  # frees its arrays before the new one takes as many
            runtime = BoardRuntime(session, self.store, prepared.graph, prepared.tvm_target(), prepared.features)
            self._interpreter = key, Interpreter(prepared.graph, runtime)
        return self._interpreter[1]

    def condition(self) -> Condition:
        """What a report says of the machine: its health before and after; which boards served, which were lost."""
        pool = self.pool
        readings: Readings = {"start": self.health, "end": device_health(pool, self.device)}
        boards: BoardUse | None = None
        if isinstance(pool, Boards):
            gone = {disconnect.board for disconnect in pool.disconnects if not disconnect.came_back}
            boards = {
                "used": [name for name in pool.names if name not in gone],
                "lost": [cast(LostBoard, dataclasses.asdict(disconnect)) for disconnect in pool.disconnects],
                "emulated": pool.board.emulated,
            }
        ResultStore(self.db).put("health", self.device.key, readings)
        return {"health": readings, "boards": boards}

    def __enter__(self) -> RunContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the boards to others, and close the database."""
        self._interpreter = None
        self.pool.close()
        self.db.close()


def device_health(pool: DevicePool, device: DeviceIdentity) -> Reading:
    """Now, with warnings; of the first board when there are several."""
    if isinstance(pool, Boards):
        state = pool.do(lambda session: Probe(session).health())
    else:
        state = health.read_health(health.read_local)
    return cast(Reading, {**dataclasses.asdict(state), "warnings": state.warnings(device.cores)})


def open_context(options: Options, *, compile_only: bool = False) -> RunContext:
    """Load the model, find the device, open database and kernel store.

    compile_only: nothing will run, so the device need not be there.

    Raises
    ------
    TargetMismatchError
        If the CPU (here, or of the board) lacks features of the target: its kernels can be neither measured nor used
        for calibration.
    MissingDependencyError
        If nothing here links libraries for the target.
    """
    row = targets.resolve(options.target)
    pool, device = _device(options, row, compile_only=compile_only)
    try:
        context = _equipped(options, row, pool, device)
    except BaseException:
        pool.close()
        raise
    try:
        context.import_check = verified(context.prepared, options, context.host_interpreter(), lambda: context.data)
    except BaseException:
        context.close()
        raise
    return context


def _equipped(options: Options, row: TargetRow, pool: DevicePool, device: DeviceIdentity) -> RunContext:
    path = Path(options.db) if options.db else default_path()
    db = LatencyDatabase(path)
    options.tell(f"reading {_name(options.model)}")
    prepared = prepare(
        options.model,
        target=row,
        threads=options.threads or 1,
        example_inputs=options.example_inputs,
        batch=options.batch,
        input_shapes=options.input_shapes,
        offered=options.offered,
        requantize=options.requantize,
        same_code=options.simulator is not None,
    )
    for note in prepared.loaded.notes:
        options.tell(note)
    store = KernelStore(
        path.parent / f"{path.name}.kernels",
        prepared.tvm_target_attrs,
        workers=options.workers or usable_cores(),
        linker=targets.linker_of(row),
    )
    return RunContext(options, prepared, db, store, pool, device, device_health(pool, device))


def _device(options: Options, row: TargetRow, *, compile_only: bool) -> tuple[DevicePool, DeviceIdentity]:
    threads = options.threads or 1
    if options.rpc is not None:
        boards = open_boards(options.rpc, options.key, threads, row, options.tell)
        return boards, boards.board.identity(threads)
    lacking = targets.missing_features(row)
    if lacking and not compile_only:
        hint = f" (TVM has no packages for {lacking[0]}: build its server there)" if lacking[0] in UNPACKAGED else ""
        raise TargetMismatchError(
            f"target {row.name!r} needs {', '.join(lacking)}, which this CPU lacks, so nothing can be measured for it "
            f"here: give a board with --rpc HOST:PORT{hint}, choose target 'local', or compile a plan "
            "made elsewhere with tvm-mpq build --plan"
        )
    here = targets.local_row() if lacking else row
    return ThisMachine(threads), targets.device_identity(here, threads)


def open_boards(rpc: str, key: str | None, threads: int, row: TargetRow, say: Callable[[str], None] | None) -> Boards:
    """Connect to HOST:PORT, ready to measure code for `row`.

    Raises
    ------
    InvalidValueError
        If the address is none.
    DeviceLostError
        If nothing usable answers.
    TargetMismatchError
        If what answers cannot run code for `row`.
    """
    host, port = parse_address(rpc)
    boards = Boards(host, port, key, threads=threads, say=say)
    try:
        targets.require_board(row, boards.board, boards.names[0])
        boards.build_sentinel(targets.to_tvm(row, threads))
    except BaseException:
        boards.close()
        raise
    if boards.board.emulated and say is not None:
        say("this board is emulated: its numbers are right, its times mean nothing")
    return boards


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
