"""Ours against the engines one can install: same network, weights and calibration images, timed in turns.

    python benchmarks/peers.py --networks mobilenetv2,resnet20 --threads 1,2 --rounds 15 --shared FOLDER --json out.json

See benchmarks/README.md. The table goes to standard output, everything else to standard error. `tvm-mpq bench MODEL`
does the same for a network of one's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from command_line import chosen, say
from networks import NETWORKS, Material, MissingSourceError, material

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.peers.bench import compare
from tvm_mpq.peers.common import ENGINES, MODULES
from tvm_mpq.peers.compare import Settings, Subject, chosen_engines, default_cache
from tvm_mpq.report.peers import show_peers


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", default="resnet20", help=f"comma separated, of {', '.join(NETWORKS)}; or all")
    add("--engines", default="all", help=f"comma separated, of {', '.join(ENGINES)}, ours-w2a4 and the like; or all")
    add("--threads", default="1", help="comma separated thread counts (default 1)")
    add("--rounds", type=int, default=15, help="calm rounds wanted for each ratio (default 15)")
    add("--attempts", type=int, default=4, help="at most this many times as many rounds are tried (default 4)")
    add("--turn-ms", type=float, default=60.0, help="least length of an engine's turn (default 60)")
    add("--max-drift", type=float, default=0.10, help="of the sentinel, relative (default 0.10)")
    add("--max-waited", type=float, default=0.05, help="share of a turn spent waiting for a core (default 0.05)")
    add("--calibration", type=int, default=64, help="calibration images, the same for all (default 64)")
    add("--check", type=int, default=32, help="images on which outputs are compared (default 32)")
    add("--accuracy", action="store_true", help="top-1 on the whole evaluation set, where there are labels")
    add("--shared", type=Path, help="folder with models/, dataset.py and torch_models.py")
    add("--cache", type=Path, default=default_cache(), help="built networks are kept here")
    add("--db", help="latency database for building ours (default: the user's)")
    add("--python", action="append", default=[], metavar="ENGINE=PATH", help="its Python, as litert=/venv/bin/python")
    add("--rebuild", action="store_true", help="build again what the cache holds")
    add("--json", type=Path, help="write the results here, after every network")
    options = parser.parse_args()
    options.networks = chosen(parser, options.networks, tuple(NETWORKS))
    try:
        options.engines = chosen_engines(options.engines)
    except InvalidValueError as e:
        parser.error(str(e))
    options.threads = [int(t) for t in options.threads.split(",")]
    options.python = dict.fromkeys(MODULES, sys.executable) | dict(p.split("=", 1) for p in options.python)
    allowed = sorted(os.sched_getaffinity(0))
    if max(options.threads) > len(allowed):
        parser.error(f"--threads may be at most {len(allowed)} here")
    options.cache, options.shared = options.cache.resolve(), options.shared.resolve() if options.shared else None
    return options


def subject(network: Material) -> Subject:
    """The network as the comparison wants it."""
    same = {f.name: getattr(network, f.name) for f in dataclasses.fields(Subject) if f.name != "classifies"}
    return Subject(**same, classifies=network.source.classifies)


def main() -> None:
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    subjects, missing = [], {}
    for name in options.networks:
        try:
            counts = options.calibration, options.check
            network = material(name, options.shared, options.cache, *counts, accuracy=options.accuracy)
        except (MissingSourceError, ImportError) as e:
            missing[name] = str(e)
            say(f"{name}: left out: {e}")
            continue
        subjects.append(subject(network))
    known = {f.name for f in dataclasses.fields(Settings)}
    settings = Settings(say=say, **{k: v for k, v in vars(options).items() if k in known})
    for report in compare(subjects, settings, options.threads):
        report["missing"] = missing
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show_peers(report)


if __name__ == "__main__":
    main()
