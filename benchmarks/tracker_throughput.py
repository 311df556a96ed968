"""Kernels measured per minute with one, two and three boards under one tracker key.

    python benchmarks/tracker_throughput.py [--servers 3] [--kernels 48]

The boards are TVM's own RPC servers on loopback, each bound to one of this machine's cores in turn. What counts is the
time from compiled kernels to checked and stored latencies, as in `tvm-mpq tune`. Sessions are open before the clock
starts, and noisy times are kept, so that each run does the same work. Servers that share cores do not scale as boards
of their own do: with two cores, a third one adds little.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tvm_mpq.costs.measured import measure_all
from tvm_mpq.costs.profiler import KernelProfiler, latency_key
from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel
from tvm_mpq.pipeline.context import open_boards
from tvm_mpq.schema import W8A8, Conv2dWorkload, LatencyKey
from tvm_mpq.targets import features, local_row, to_tvm_attrs
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.devices.tracker import Tracker
from tvm_mpq.tuning.measure.kernels import MeasureSettings

KEY = "loopback"
START_SEC = 60.0
SETTINGS = MeasureSettings(max_relative_iqr=1e6, max_drift=1e6)


@contextlib.contextmanager
def program(module: str, *options: str, core: int | None = None) -> Iterator[None]:
    """One of TVM's command line programs, ended with all it started."""
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tvm.exec.{module}", *options, "--host=127.0.0.1", "--silent"]
    pipe = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int, boards: int) -> None:
    """Until the tracker knows so many boards."""
    end = time.monotonic() + START_SEC
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError), Tracker("127.0.0.1", port, 5.0) as tracker:
            if tracker.boards(KEY)[0] >= boards:
                return
        time.sleep(0.2)
    sys.exit(f"error: {boards} boards did not register at the tracker within {START_SEC:g} s (is tornado installed?)")


def kernels(count: int) -> dict[LatencyKey, Kernel]:
    """Convolutions of 8 bit, each of another number of channels."""
    row = local_row()
    found = {}
    for i in range(count):
        workload = Conv2dWorkload(1, 14, 14, 64, 16 * (i + 1), (1, 1))
        kernel = default_kernel(Request(workload, W8A8, 8, features(row), 1))
        found[latency_key(kernel, row.name)] = kernel
    return found


def seconds_with(port: int, store: KernelStore, wanted: dict[LatencyKey, Kernel], folder: Path) -> tuple[float, int]:
    """Time to check and measure all kernels on all boards that the tracker has, and how many were refused."""
    row = local_row()
    boards = open_boards(f"127.0.0.1:{port}", KEY, 1, row, None)
    try:
        list(boards.run(range(8 * boards.width), lambda session, task: session.device.sync()))
        with LatencyDatabase(folder / f"{boards.width}.sqlite") as db:
            profiler = KernelProfiler(row.name, boards.board.identity(1), store, db, boards, SETTINGS)
            table = LatencyTable(row.name)
            start = time.perf_counter()
            measure_all(profiler, table, wanted)
            return time.perf_counter() - start, len(table.refused)
    finally:
        boards.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=3, help="boards at most (default: %(default)s)")
    parser.add_argument("--kernels", type=int, default=48, help="kernels to measure (default: %(default)s)")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    port, wanted = free_port(), kernels(args.kernels)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as programs:
        folder = Path(name)
        store = KernelStore(folder / "kernels", to_tvm_attrs(local_row(), 1))
        store.require(list(wanted.values()))  # so that no round compiles
        programs.enter_context(program("rpc_tracker", f"--port={port}", f"--port-end={port + 1}"))
        print(f"{args.kernels} kernels, {len(cores)} cores\nservers  seconds  kernels/minute  speed-up  refused")
        alone = 0.0
        for servers in range(1, args.servers + 1):
            options = (f"--tracker=127.0.0.1:{port}", f"--key={KEY}", "--port=9190", "--custom-addr=127.0.0.1")
            programs.enter_context(program("rpc_server", *options, core=cores[-servers % len(cores)]))
            wait_for(port, servers)
            if servers == 1:
                seconds_with(port, store, wanted, folder / "first")  # generates what later runs find in memory
            seconds, refused = seconds_with(port, store, wanted, folder)
            alone = alone or seconds
            rate = 60 * args.kernels / seconds
            print(f"{servers:7}  {seconds:7.1f}  {rate:14.0f}  {alone / seconds:8.2f}  {refused:7}", flush=True)


if __name__ == "__main__":
    main()
