"""Whole networks: built once each, run on the device, timed side by side, and remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from tvm_mpq import scratch
from tvm_mpq.errors import DeviceLostError, MeasurementError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import Accuracy, accuracy, classifies
from tvm_mpq.execute.interpreter import Sample
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.schema import DeviceIdentity, Plan, Progress
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.network_store import NetworkRun, NetworkStore
from tvm_mpq.tuning.devices.pool import DevicePool
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.networks import NetworkJob, WholeNetworkLatency, measure_networks

ATTEMPTS = 3
"""How often whole networks are timed before noisy times are accepted, with a message to the user."""


@dataclass(frozen=True)
class Checked:
    """One built network, measured. latency in microseconds; rounds_us, sentinel_us: as of `WholeNetworkLatency`.

    outputs: the first one of each sample.
    """

    median_us: float
    iqr_us: float
    accuracy: Accuracy
    bytes: int
    activation_bytes: int
    rounds_us: Mapping[int, float] = dataclasses.field(default_factory=dict)
    sentinel_us: Mapping[int, float] = dataclasses.field(default_factory=dict)
    outputs: Sequence[npt.NDArray[Any]] = ()


class NetworkBuildCache:
    """Builds each distinct plan of one network once, in a folder that is deleted with this object.

    codes_of: the weights' integers under a plan.
    """

    def __init__(
        self,
        prepared: Prepared,
        kernels: KernelStore,
        pool: DevicePool,
        device: DeviceIdentity,
        db: LatencyDatabase,
        sample: Sample,
        codes_of: Callable[[Plan], WeightCodes],
        *,
        say: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:
        self._prepared, self._kernels, self._pool, self._device = prepared, kernels, pool, device
        self._codes_of, self._say, self._progress = codes_of, say, progress
        self._inputs = [sample[name] for name in prepared.inputs]
        self._work = scratch.folder()
        self._realized: dict[str, tuple[str, tvm.IRModule]] = {}  # plan to digest and module
        self._built: dict[str, network.Built] = {}
        self._store = NetworkStore(db)

    def build(self, plan: Plan) -> network.Built:
        """The plan's library, built when it is not there yet."""
        digest, mod = self._realize(plan)
        if digest not in self._built:
            path = Path(self._work.name) / f"{digest[:24]}.so"
            self._built[digest] = network.build(self._prepared, plan, path, mod, self._kernels)
        return self._built[digest]

    def known_us(self, plans: Mapping[str, Plan]) -> dict[str, float]:
        """Whole-network medians, microseconds, where they are steady; what the database knows is not measured again."""
        device = self._device.key
        found = {name: self._store.get(self._digest(plan), device) for name, plan in plans.items()}
        missing = {name: plans[name] for name, run in found.items() if run is None}
        times: dict[str, NetworkRun | WholeNetworkLatency] = {n: run for n, run in found.items() if run is not None}
        times.update(self.measure(missing, stage="timing uniform networks"))
        return {name: times[name].median_us for name in plans if _is_steady(times[name])}

    def measure(
        self,
        plans: Mapping[str, Plan],
        predicted_us: Mapping[str, float] | None = None,
        *,
        stage: str = "timing networks",
    ) -> dict[str, WholeNetworkLatency]:
        """Time plans in turns in one session, so that their ratios hold; equal plans are timed once.

        stage: what progress calls it.
        """
        if not plans:
            return {}
        digests = {name: self._digest(plan) for name, plan in plans.items()}
        distinct = {digest: plans[name] for name, digest in digests.items()}
        jobs = [NetworkJob(self._built_with_progress(plan).path, self._inputs) for plan in distinct.values()]
        times = dict(zip(distinct, self._time(jobs, stage), strict=True))
        for name, digest in digests.items():
            self._remember(digest, times[digest], (predicted_us or {}).get(name))
        return {name: times[digest] for name, digest in digests.items()}

    def _time(self, jobs: list[NetworkJob], stage: str) -> list[WholeNetworkLatency]:
        """Times of all networks; noisy ones are retaken, and accepted with a message if the machine stays busy."""
        return self._pool.do(lambda session: self._timed(session, jobs, stage))

    def _timed(self, session: Session, jobs: list[NetworkJob], stage: str) -> list[WholeNetworkLatency]:
        sentinel = self._pool.sentinel()

        def rounds(done: int, total: int) -> None:
            if self._progress:
                self._progress(done, total, stage)

        for _ in range(ATTEMPTS):
            try:
                return measure_networks(session, jobs, presets.NETWORKS, sentinel=sentinel, progress=rounds)
            except DeviceLostError:
                raise
            except MeasurementError:
                self._say("whole-network times scatter; measuring again")
        self._say("this machine is busy: see the IQR, and repeat when it is quiet")
        patient = dataclasses.replace(presets.NETWORKS, max_relative_iqr=100.0, max_drift=100.0)
        return measure_networks(session, jobs, patient, sentinel=sentinel, progress=rounds)

    def check(
        self,
        plans: Mapping[str, Plan],
        samples: Sequence[Sample],
        labels: npt.NDArray[np.int64] | None,
        predicted_us: Mapping[str, float],
    ) -> dict[str, Checked]:
        """Run every plan on the data on the device, and time all of them. The plan `fp32` is the reference."""
        prepared = self._prepared
        inputs = [[sample[n] for n in prepared.inputs] for sample in samples]
        outputs: dict[str, list[npt.NDArray[Any]]] = {}
        for i, plan in enumerate(plans.values(), 1):
            digest = self._digest(plan)
            if digest not in outputs:
                path = self._built_with_progress(plan).path
                outputs[digest] = self._pool.do(
                    lambda session, path=path: network.run_library(session, path, inputs)  # type: ignore[misc]
                )
            if self._progress:
                self._progress(i, len(plans), "verifying")
        times = self.measure(plans, predicted_us, stage="timing what was built")
        results = {}
        for name, plan in plans.items():
            quality = accuracy(
                outputs[self._digest(plan)],
                outputs[self._digest(plans["fp32"])],
                labels,
                classifies=classifies(prepared.graph),
                whose=f"the built {name} network",
            )
            time = times[name]
            built = self.build(plan)
            results[name] = Checked(
                time.median_us,
                time.iqr_us,
                quality,
                built.bytes,
                built.activation_bytes,
                time.rounds_us,
                time.sentinel_us,
                outputs[self._digest(plan)],
            )
        return results

    def _realize(self, plan: Plan) -> tuple[str, tvm.IRModule]:
        """The plan's digest and module, made once."""
        name = repr(plan)
        if name not in self._realized:
            prepared = self._prepared
            codes = self._codes_of(plan)
            mod = network.realize(prepared, plan, codes)
            self._realized[name] = network.plan_digest(prepared, plan, mod, self._kernels, codes), mod
        return self._realized[name]

    def _digest(self, plan: Plan) -> str:
        return self._realize(plan)[0]

    def _built_with_progress(self, plan: Plan) -> network.Built:
        if self._digest(plan) not in self._built:
            self._say(f"compiling the network ({network.summary(plan)})")
        return self.build(plan)

    def _remember(self, digest: str, time: WholeNetworkLatency, predicted_us: float | None) -> None:
        """Keep a run, but a steady one that is kept already: tables were corrected by it, and shall be so again."""
        known = self._store.get(digest, self._device.key)
        if known is not None and _is_steady(known):
            if predicted_us is not None:
                self._store.put(dataclasses.replace(known, predicted_us=predicted_us))
            return
        self._store.put(
            NetworkRun(
                digest,
                self._device.key,
                self._prepared.row.name,
                self._prepared.loaded.fingerprint,
                tvm.__version__,
                time.median_us,
                time.iqr_us,
                time.repeats,
                time.load_ms,
                time.first_run_us,
                predicted_us,
                datetime.now(timezone.utc).isoformat(),
            )
        )


def _is_steady(run: NetworkRun | WholeNetworkLatency) -> bool:
    return run.iqr_us <= presets.NETWORKS.max_relative_iqr * run.median_us
