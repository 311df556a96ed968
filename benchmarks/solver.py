"""How long the integer program takes, by the number of operators, on made-up residual networks with boundaries.

    python benchmarks/solver.py [--operators 25,50,100,200] [--choices 9] [--shares 0.8,0.6] [--seeds 3] [--limit 60]

Every second operator adds a residual. An operator has fp32 and `choices - 1` integer precisions of 8 or 4 bit
activations; latencies, sizes, energies and losses are drawn, fewer bits tending to be faster, smaller and worse;
conversions cost up to a tenth of an operator. Three questions of each network: the least loss within a share of uniform
8 bit's latency; the same with size and energy limited as well; the least latency that loses no more than the first.
Times are of the whole call, all lexicographic steps, on one thread; nothing is measured on a device.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable

from tvm_mpq.select.evaluate import cost, uniform
from tvm_mpq.select.ilp import Solution, solve
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor

FORMATS = (32, 8, 4)
CONVERT_US = {(32, 8): 3.0, (32, 4): 3.2, (8, 32): 2.5, (4, 32): 2.5, (8, 4): 1.5, (4, 8): 1.5}


def made_up(operators: int, choices: int, seed: int) -> Problem:
    """A residual network of this many operators with weights."""
    rng = random.Random(seed)
    tensors = [Tensor("t0", FORMATS, CONVERT_US, fixed=32)]
    made = []
    for i in range(operators):
        inputs = (f"t{i}", f"t{i - 1}") if i % 2 else (f"t{i}",)
        exact = (True, False)[: len(inputs)]
        made.append(Operator(f"conv{i}", inputs, f"t{i + 1}", _choices(rng, choices), exact))
        convert = {pair: us * rng.uniform(0.5, 2.0) for pair, us in CONVERT_US.items()}
        required = 32 if i == operators - 1 else None
        tensors.append(Tensor(f"t{i + 1}", FORMATS, convert, required=required))
    return Problem(tuple(made), tuple(tensors), fixed_us=10.0, call_us=1.0)


def _choices(rng: random.Random, count: int) -> tuple[Choice, ...]:
    us, loss, size = rng.uniform(5, 200), 10 ** rng.uniform(-5, -1), rng.randint(1000, 200_000)
    found = [Choice("fp32", 32, {32: 4 * us, 8: 4.1 * us}, 4 * size, 0.0, us / 50)]
    for w, a in itertools.islice(itertools.product((8, 6, 4, 3, 2, 1), (8, 4)), count - 1):
        time_us = us * (0.5 + w / 16) * (0.5 + a / 16)
        found.append(
            Choice(
                f"w{w}a{a}",
                a,
                {bits: time_us * rng.uniform(0.8, 1.2) for bits in (32, 8)},
                size * w // 8,
                loss * (2.0 ** (8 - w) + 2.0 ** (8 - a)) * rng.uniform(0.5, 1.5),
                time_us / 200 * rng.uniform(0.8, 1.2),
            )
        )
    return tuple(found)


def questions(problem: Problem, share: float, limit_sec: float) -> dict[str, Callable[[], Solution]]:
    """Name -> what answers it."""
    int8 = cost(problem, uniform(problem, "w8a8"))
    assert int8.energy_mj is not None, "every choice has one"
    one = Limits(latency_us=share * int8.latency_us)
    three = Limits(one.latency_us, 0.8 * int8.size_bytes, None, 0.85 * int8.energy_mj)
    first = solve(problem, one, "loss", time_limit_sec=limit_sec)
    return {
        "least loss, latency limited": lambda: solve(problem, one, "loss", time_limit_sec=limit_sec),
        "least loss, three limits": lambda: solve(problem, three, "loss", time_limit_sec=limit_sec),
        "least latency, loss limited": lambda: solve(
            problem, Limits(loss=first.loss), "latency", time_limit_sec=limit_sec
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", default="25,50,100,200")
    parser.add_argument("--choices", type=int, default=9)
    parser.add_argument("--shares", default="0.8,0.6")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds the solver may take for a question")
    args = parser.parse_args()
    print("operators  question                        median s   most s   CPU s   largest gap")
    for count in map(int, args.operators.split(",")):
        taken: dict[str, list[tuple[float, float, float]]] = {}
        for share, seed in itertools.product(map(float, args.shares.split(",")), range(args.seeds)):
            for name, ask in questions(made_up(count, args.choices, seed), share, args.limit).items():
                began, cpu = time.perf_counter(), time.process_time()
                gap = ask().gap
                taken.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - cpu, gap))
        for name, runs in taken.items():
            seconds, cpus, gaps = zip(*runs, strict=True)
            print(
                f"{count:9}  {name:30} {statistics.median(seconds):9.2f} {max(seconds):8.2f} "
                f"{statistics.median(cpus):7.2f}   {max(gaps):.2e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
