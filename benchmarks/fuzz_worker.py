"""The process in which `fuzz.py` gives damaged inputs to the program; it may die of one, and is then started again.

Case after case by number on standard input: a line `KIND NUMBER`, answered by one line of JSON.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import platform
import random
import sqlite3
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_guarded import guarded
from fuzz_mutations import mutate_bytes, mutate_json, mutate_npz, mutate_onnx, mutate_words

from tvm_mpq.cli import alone, one_line
from tvm_mpq.errors import MPQError
from tvm_mpq.targets.cpuinfo import architecture

alone.import_tvm_alone()

ROOT = Path(__file__).parents[1]

INPUTS = {"x": ((1, 3, 6, 6), "float32")}


def judge(kind: str, number: int, seed: int, folder: Path) -> dict[str, str]:
    """What becomes of a case: `taken`, `refused` in one line, or `fault`, with what was wrong."""
    rng = random.Random(zlib.crc32(f"{kind} {number} {seed}".encode()))
    prepare, act = KINDS[kind]
    path = folder / prepare(folder, rng)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            act(path)
        return {"outcome": "taken", "text": ""}
    except MPQError as e:
        text = one_line(str(e))
        return {"outcome": "refused" if text else "fault", "text": text or f"{type(e).__name__} without a message"}
    except BaseException as e:  # noqa: BLE001  whatever comes is what is looked for
        last = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return {"outcome": "fault", "text": f"{type(e).__name__} at {where}: {' '.join(str(e).split())[:200]}"}


@cache
def onnx_bases() -> list[bytes]:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from mpq_testing.onnx_models import GRAPHS

    return [GRAPHS[name]().SerializeToString() for name in sorted(GRAPHS)]


def damaged_onnx(folder: Path, rng: random.Random) -> str:
    (folder / "case.onnx").write_bytes(mutate_onnx(rng.choice(onnx_bases()), rng))
    return "case.onnx"


def inspected(path: Path) -> None:
    from tvm_mpq.pipeline import Options, inspect_network

    inspect_network(Options(path))


@cache
def tflite_base() -> bytes:
    path = ROOT / "tests" / "unit" / "frontends" / "test_tflite_file.py"
    spec = importlib.util.spec_from_file_location("tflite_writer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    tensors = module.tensors.__wrapped__  # of pytest's fixture
    with tempfile.TemporaryDirectory() as folder:
        return module.write(Path(folder) / "base.tflite", tensors(np.random.default_rng(0))).read_bytes()


def damaged_tflite(folder: Path, rng: random.Random) -> str:
    (folder / "case.tflite").write_bytes(mutate_words(tflite_base(), rng))
    return "case.tflite"


@cache
def npz_base() -> bytes:
    stream = io.BytesIO()
    x = np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)
    np.savez(stream, x=x, labels=np.arange(8))
    return stream.getvalue()


def damaged_npz(folder: Path, rng: random.Random) -> str:
    (folder / "case.npz").write_bytes(mutate_npz(npz_base(), rng))
    return "case.npz"


def loaded_data(path: Path) -> None:
    from tvm_mpq.calibrate.data import load_dataset

    load_dataset(path, INPUTS)


@cache
def built() -> Path:
    """A built folder with codes, a plan of small bits, a report and answers; made once by the parent process."""
    return Path(os.environ["TVM_MPQ_FUZZ_BUILT"])


def damaged_plan(folder: Path, rng: random.Random) -> str:
    """plan.json, or the codes beside it."""
    case = folder / "plan"
    case.mkdir(exist_ok=True)
    for name in ("plan.json", "codes.npz", "model.so"):
        if not (case / name).exists() or name != "model.so":
            (case / name).write_bytes((built() / name).read_bytes())
    name = rng.choice(("plan.json", "plan.json", "plan.json", "codes.npz"))
    mutate = mutate_json if name == "plan.json" else mutate_npz
    (case / name).write_bytes(mutate((case / name).read_bytes(), rng))
    return "plan"


@cache
def prepared_network() -> Any:
    from tvm_mpq.execute.prepare import prepare

    return prepare(built().parent / "net.onnx", target="local", threads=1)


def realized(path: Path) -> None:
    """As `build --plan`, `run` and a compile script read it; nothing is compiled."""
    from tvm_mpq import targets
    from tvm_mpq.execute import network
    from tvm_mpq.numerics.saved_plan import load_plan
    from tvm_mpq.pipeline.built_folder import open_folder

    folder = open_folder(path)
    targets.resolve(folder.plan.tvm_target())
    folder.calls()
    plan, codes = load_plan(path)
    network.realize(prepared_network(), plan, codes)


def damaged_report(folder: Path, rng: random.Random) -> str:
    case = folder / "report"
    case.mkdir(exist_ok=True)
    (case / "report.json").write_bytes(mutate_json((built() / "report.json").read_bytes(), rng))
    return "report"


def shown(path: Path) -> None:
    from tvm_mpq.pipeline import reread_report
    from tvm_mpq.report import tables

    tables.show_optimize(reread_report(path))


def damaged_database(folder: Path, rng: random.Random) -> str:
    for name in ("case.db-wal", "case.db-shm", "case.db-journal"):
        (folder / name).unlink(missing_ok=True)
    if rng.random() < 0.5:
        (folder / "case.db").write_bytes(mutate_bytes((built().parent / "latency.db").read_bytes(), rng))
        return "case.db"
    (folder / "case.db").write_bytes((built().parent / "latency.db").read_bytes())
    with contextlib.closing(sqlite3.connect(folder / "case.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice(tables)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        kind = rng.randrange(8)
        if kind == 0:
            connection.execute(f"DROP TABLE {table}")
        elif kind == 1:
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN {rng.choice(columns)} TO other")
        elif kind == 2:
            connection.execute(f"PRAGMA user_version = {rng.choice((0, 1, 2, 3, 9, -1))}")
        else:
            values = ("x", b"\xff\xfe", -1, 1e308, 2**62, "", "{}", "[1", '{"__class__": 1}', "\n\0")
            with contextlib.suppress(sqlite3.IntegrityError):
                connection.execute(
                    f"UPDATE {table} SET {rng.choice(columns)} = ? WHERE rowid % 3 = {rng.randrange(3)}",
                    (rng.choice(values),),
                )
    return "case.db"


def used_database(path: Path) -> None:
    """All that a job and the `db` commands read; then a write."""
    from tvm_mpq.tuning.database.latencies import LatencyDatabase
    from tvm_mpq.tuning.database.network_store import NetworkStore
    from tvm_mpq.tuning.database.results import ResultStore

    with LatencyDatabase(path) as db:
        db.verify()
        db.stats()
        found = list(db.records())
        for record in found[:5]:
            key = record.key
            db.fastest(key.workload, key.precision, key.out_bits, key.target, record.device)
        NetworkStore(db).get("plan", "device")
        with db.store.translated() as connection:
            kept = connection.execute("SELECT kind, key FROM results").fetchall()
        for kind, key in kept:
            ResultStore(db).get(kind, key)
        if found:
            db.put(found[0], replace=True)


def damaged_records(folder: Path, rng: random.Random) -> str:
    lines = (built().parent / "records.jsonl").read_bytes().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    (folder / "case.jsonl").write_bytes(b"\n".join(lines))
    return "case.jsonl"


def imported_records(path: Path) -> None:
    from tvm_mpq.tuning.database.latencies import LatencyDatabase

    target = path.with_name("import.db")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    with LatencyDatabase(target) as db:
        db.import_jsonl(path)


def damaged_replies(folder: Path, rng: random.Random) -> str:
    """The board, a process of the parent's, is told what to change."""
    (folder / "replies.json").write_text(json.dumps({"seed": rng.randrange(2**32)}))
    return "replies.json"


def asked_board(path: Path) -> None:
    from tvm_mpq.pipeline import list_devices

    list_devices(f"127.0.0.1:{os.environ['TVM_MPQ_FUZZ_BOARD']}", None)


def prepared_board() -> None:
    """What the first session would have to do, and less patience."""
    from tvm_mpq.pipeline import devices
    from tvm_mpq.tuning.devices import probe, session

    session.CONNECT_TIMEOUT_SEC = devices.ANSWER_SEC = session.GRACE_SEC = 1.0
    probe._library(architecture(platform.machine()))


KINDS: dict[str, tuple[Callable[[Path, random.Random], str], Callable[[Path], None]]] = {
    "onnx": (damaged_onnx, inspected),
    "tflite": (damaged_tflite, inspected),
    "npz": (damaged_npz, loaded_data),
    "plan": (damaged_plan, realized),
    "report": (damaged_report, shown),
    "database": (damaged_database, used_database),
    "records": (damaged_records, imported_records),
    "rpc": (damaged_replies, asked_board),
}


def main() -> None:
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print do not disturb the answers
    for line in sys.stdin:
        kind, number = line.split()
        if int(number) < 0:  # load what takes seconds, before the clock runs
            from tvm_mpq.pipeline import Options, inspect_network, list_devices  # noqa: F401

            onnx_bases()
            if "TVM_MPQ_FUZZ_BOARD" in os.environ:
                prepared_board()
            answers.write("ready\n")
            continue
        case = functools.partial(judge, kind, int(number), seed, folder)
        answers.write(json.dumps(guarded(case) if kind == "rpc" else case()) + "\n")


if __name__ == "__main__":
    main()
