"""Faults injected into jobs until nothing is lost: kill -9, signals, closed terminals, full and read-only disks.

    python benchmarks/faults.py --kills 50 --signals 10             all faults, all jobs
    python benchmarks/faults.py --only kill --jobs optimize,search --kills 5 --seed 3

Jobs are a tiny network's `optimize`, `tune`, `finetune` and `search`, which measure quickly. `kill` runs a job on one
database until it or its worker is killed at a random moment, then again, until it ends; that is one chain, and chains
follow until as many kills are done. After every kill: no process of it is left after 5 s, the database is sound, no
record of before is gone, and every measurement that the job said to have stored is there. Full and read-only disks need
root, for small file systems in memory; the clock needs a C compiler. What fails is printed, and counted last.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from faults_job import JOBS, Ended, Run, make_network, stored

LIMIT_SEC = 600.0
"""For a job that nothing disturbs."""

END_SEC = 20.0
"""Within which a job must have ended that was asked to."""

CLOCK_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset(void) {
  static volatile long *shared;
  if (!shared) {
    int file = open(getenv("TVM_MPQ_CLOCK"), O_RDONLY);
    shared = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    close(file);
  }
  return *shared;
}
int clock_gettime(clockid_t which, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int found = real(which, t);
  if (which == CLOCK_REALTIME) t->tv_sec += offset();
  return found;
}
time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
"""
"""Preloaded: the wall clock is off by the seconds that a shared file holds. What measures durations is left alone."""


class Faults:
    """Counts of what was tried and what failed."""

    def __init__(self, folder: Path, jobs: list[str], seed: int) -> None:
        self.folder, self.jobs, self.random = folder, jobs, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._seconds: dict[str, float] = {}
        make_network(folder)
        for job in jobs:
            self.seconds(job)  # now, and not while the first of them runs

    def expect(self, fault: str, holds: bool, what: str, ended: Ended | None = None) -> None:
        """Note a failure, with the end of what the job said."""
        if not holds:
            tail = "" if ended is None else f" [exit {ended.code}] ... {ended.output[-300:]!r}"
            self.failures.append(f"{fault}: {what}{tail}")
            print("FAILED", self.failures[-1], flush=True)

    def seconds(self, job: str) -> float:
        """How long a job takes from an empty database; measured once."""
        if job not in self._seconds:
            start = time.monotonic()
            ended = Run.start(job, self.folder, self.database()).finish(LIMIT_SEC)
            self._seconds[job] = time.monotonic() - start
            self.expect(f"{job} alone", ended.code == 0 and not ended.litter, f"litter {ended.litter}", ended)
        return self._seconds[job]

    def database(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / "latency.db"

    def left_behind(self, fault: str, ended: Ended) -> None:
        self.expect(fault, not ended.orphans, f"processes left: {ended.orphans}")
        self.expect(fault, not ended.litter, f"temporary files left: {ended.litter}")

    def kill(self, kills: int) -> None:
        """kill -9 at random moments."""
        for job in self.jobs:
            fault, db, before = f"kill -9 {job}", self.database(), set()
            temporary = Path(tempfile.mkdtemp(dir=self.folder))
            while self.done[fault] < kills:
                run = Run.start(job, self.folder, db, temporary=temporary)
                over = run.wait(self.random.uniform(0.0, self.seconds(job)))
                if not over:
                    run.send(signal.SIGKILL, to_worker=self.random.random() < 0.5)
                    self.done[fault] += 1
                ended = run.finish(LIMIT_SEC, tidy=over)
                self.left_behind(fault, ended)
                wrong, now = stored(db)
                self.expect(fault, not wrong, f"the database is damaged: {wrong}")
                self.expect(fault, before <= now, f"{len(before - now)} records of an earlier run are gone")
                new = len(now - before)
                self.expect(fault, new >= ended.logged, f"{ended.logged} measurements stored, only {new} found")
                before = now
                if over:
                    self.expect(fault, ended.code == 0, "a run after kills did not end well", ended)
                    self.done[f"{fault}: chains ended well"] += ended.code == 0
                    db, before = self.database(), set()
            ended = Run.start(job, self.folder, db, temporary=temporary).finish(LIMIT_SEC)
            self.expect(fault, ended.code == 0, "the run after the last kill did not end well", ended)
            self.left_behind(fault, ended)

    def signals(self, count: int) -> None:
        """Asked to end: it says so, and leaves nothing behind."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            for i in range(count):
                job = self.jobs[i % len(self.jobs)]
                fault = f"{number.name} {job}"
                run = Run.start(job, self.folder, self.database())
                # From when Python has set its handlers up.
                if run.wait(self.random.uniform(0.3, 1.0) * self.seconds(job)):
                    run.finish(LIMIT_SEC)
                    continue
                begun = "reading" in run.log.read_text(errors="replace")
                run.send(number)
                ended = run.finish(END_SEC)
                self.done[fault] += 1
                codes = {128 + number} if begun else {128 + number, -number}  # the latter before it listens
                self.expect(fault, ended.code in codes, "did not end as asked", ended)
                self.expect(fault, not begun or "interrupted" in ended.output, "did not say that it was", ended)
                self.left_behind(fault, ended)

    def terminal(self, count: int) -> None:
        """The terminal is closed: the job ends like one that is asked to, though nobody hears it."""
        for i in range(count):
            job = self.jobs[i % len(self.jobs)]
            run = Run.start(job, self.folder, self.database(), on_terminal=True)
            over = run.wait(self.random.uniform(0.2, 1.0) * self.seconds(job))
            run.close_terminal()
            ended = run.finish(END_SEC)
            if not over:
                self.done[f"closed terminal {job}"] += 1
                self.expect(f"closed terminal {job}", ended.code is not None, "runs on", ended)
            self.left_behind(f"closed terminal {job}", ended)

    def disk(self) -> None:
        """A full disk under database, results and temporary files; a read-only one; then room again."""
        if os.geteuid() != 0:
            print("full and read-only disks: skipped, they need root")
            return
        for job in self.jobs:
            with small_disk(self.folder, "24k") as disk:  # a database file fits, its records do not
                ended = Run.start(job, self.folder, disk / "latency.db").finish(LIMIT_SEC)
                self.judged(f"full disk under the database, {job}", ended)
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                ended = Run.start(job, self.folder, disk / "latency.db").finish(LIMIT_SEC)
                self.expect(f"room again {job}", ended.code == 0, "the next run did not end well", ended)
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                ended = Run.start(job, self.folder, disk / "latency.db").finish(LIMIT_SEC)
                self.judged(f"read-only folder of the database, {job}", ended)
            with small_disk(self.folder, "48k") as disk:
                ended = Run.start(job, self.folder, self.database(), temporary=disk).finish(LIMIT_SEC)
                self.judged(f"full disk under TMPDIR, {job}", ended)

    def judged(self, fault: str, ended: Ended) -> None:
        self.done[fault] += 1
        self.expect(fault, ended.one_line, "is not one line with exit code 1", ended)
        self.left_behind(fault, ended)

    def together(self) -> None:
        """Two jobs at once on one database."""
        for job in self.jobs:
            db = self.database()
            runs = [Run.start(job, self.folder, db) for _ in range(2)]
            for run in runs:
                ended = run.finish(LIMIT_SEC)
                self.expect(f"two at once {job}", ended.code == 0, "did not end well", ended)
                self.left_behind(f"two at once {job}", ended)
            wrong, _ = stored(db)
            self.expect(f"two at once {job}", not wrong, f"the database is damaged: {wrong}")
            self.done[f"two at once {job}"] += 1

    def clock(self) -> None:
        """Set forward a day in the middle of a run, and back two before the next."""
        shim, shared = self.folder / "clock.so", self.folder / "clock"
        (self.folder / "clock.c").write_text(CLOCK_SHIM)
        compiled = ["cc", "-shared", "-fPIC", "-o", str(shim), str(self.folder / "clock.c"), "-ldl"]
        if subprocess.run(compiled, check=False).returncode:
            print("clock: skipped, it needs a C compiler")
            return
        environment = {"LD_PRELOAD": str(shim), "TVM_MPQ_CLOCK": str(shared)}
        for job in self.jobs:
            db, before = self.database(), set()
            for off, later in ((0, 86400), (-2 * 86400, -3 * 86400)):
                shared.write_bytes(off.to_bytes(8, "little", signed=True))
                run = Run.start(job, self.folder, db, environment=environment)
                run.wait(0.5 * self.seconds(job))
                shared.write_bytes(later.to_bytes(8, "little", signed=True))
                ended = run.finish(LIMIT_SEC)
                self.expect(f"clock {job}", ended.code == 0, f"did not end well with {off} s", ended)
                wrong, now = stored(db)
                self.expect(f"clock {job}", not wrong and before <= now, f"records changed: {wrong}")
                if before and job != "tune":
                    self.expect(f"clock {job}", now == before, f"{len(now - before)} measured again")
                before = now
            self.done[f"clock {job}"] += 1


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    disk = Path(tempfile.mkdtemp(dir=folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each job")
    parser.add_argument("--signals", type=int, default=8, help="of each kind")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--only", default="", help="by commas: kill, signals, terminal, disk, together, clock")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    with tempfile.TemporaryDirectory(prefix="faults_") as name:
        faults = Faults(Path(name), asked.jobs.split(","), asked.seed)
        kinds: dict[str, Callable[[], None]] = {
            "kill": lambda: faults.kill(asked.kills),
            "signals": lambda: faults.signals(asked.signals),
            "terminal": lambda: faults.terminal(asked.signals),
            "disk": faults.disk,
            "together": faults.together,
            "clock": faults.clock,
        }
        with contextlib.suppress(KeyboardInterrupt):  # what was counted by then is told
            for kind in asked.only.split(",") if asked.only else kinds:
                kinds[kind]()
                print(f"{kind} done, {len(faults.failures)} failures so far", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # `timeout` sends it to the process and to its group
    for name, count in sorted(faults.done.items()):
        print(f"{count:6d}  {name}")
    print(f"{len(faults.failures)} failures of {sum(faults.done.values())}")
    for failure in faults.failures:
        print("  ", failure)
    sys.exit(bool(faults.failures))


if __name__ == "__main__":
    main()
