"""Small problems of every shape, and their solutions by trying everything."""

import itertools
import random
from dataclasses import replace

import pytest

from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor


def _conversions(rng, formats):
    pairs = [(a, b) for a in formats for b in formats if a != b]
    return {pair: rng.choice([0, 1, 2, 5]) for pair in pairs if rng.random() < 0.85}


def _tensor(rng, name, **extra):
    formats = rng.choice([(32, 8, 4), (32, 8, 4), (32, 8), (8, 4)])
    if extra:
        formats = (32, 8, 4)
    return Tensor(name, formats, _conversions(rng, formats), **extra)


def _weighted(rng, index, inputs):
    labels = rng.sample(["w8a8", "w4a8", "w4a4", "w2a4", "fp32"], rng.choice([2, 3]))
    choices = []
    for label in labels:
        keys = rng.choice([(32, 8), (32, 8), (32,), (8,)])
        choices.append(
            Choice(
                label,
                32 if label == "fp32" else int(label[3]),
                {k: rng.randint(1, 12) for k in keys},
                rng.randint(0, 9),
                rng.choice([0, 0, 1, 3, -1, 7]),
                rng.randint(0, 5),
            )
        )
    return Operator(f"conv{index}", inputs, f"t{index}", tuple(choices), (True, False)[: len(inputs)])


def _weightless(rng, index, inputs):
    choices = (
        Choice("a8", rng.choice([4, 8]), {8: rng.randint(1, 5), 32: rng.randint(1, 9)}, energy_mj=1.0),
        Choice("fp32", 32, {32: rng.randint(1, 9)}, energy_mj=2.0),
    )
    exact = len(inputs) == 1 and rng.random() < 0.3
    return Operator(f"weightless{index}", inputs, f"t{index}", choices, (exact,) * len(inputs))


@pytest.fixture(scope="session")
def small_problem():
    """seed -> Problem of 2 to 4 operators: residual chains, operators without weights, tied pools; many ties."""

    def make(seed, sizes=(2, 3, 3, 4)):
        rng = random.Random(seed)
        count = rng.choice(sizes)
        tensors = [Tensor("x", (32, 8, 4), {(32, 8): rng.randint(0, 3), (32, 4): rng.randint(0, 3)}, fixed=32)]
        operators = []
        for i in range(count):
            names = [t.name for t in tensors]
            inputs = (names[-1],) if len(names) == 1 or rng.random() < 0.5 else (names[-1], rng.choice(names))
            last = {"required": 32} if i == count - 1 else {}
            if rng.random() < 0.6:
                operators.append(_weighted(rng, i, inputs))
            else:
                tie = {"tie": names[-1]} if len(inputs) == 1 and rng.random() < 0.6 else {}
                last |= tie
                operators.append(_weightless(rng, i, inputs))
            tensors.append(_tensor(rng, f"t{i}", **last))
        return Problem(tuple(operators), tuple(tensors), fixed_us=2, call_us=rng.choice([0, 1]))

    return make


@pytest.fixture(scope="session")
def loosened():
    """A small problem -> the same, whose operators without weights read any integers, as those of networks do."""

    def make(problem):
        loose = (replace(o, exact_inputs=(o.name[0] == "c", *o.exact_inputs[1:])) for o in problem.operators)
        return replace(problem, operators=tuple(loose))

    return make


def _cheapest_copies(tensor, emitted, accepted):
    """Least (cost, count) of a set of conversions after which every set of accepted formats holds one at hand."""
    targets = [to for source, to in tensor.convert_us if source == emitted]
    sets = itertools.chain.from_iterable(itertools.combinations(targets, n) for n in range(len(targets) + 1))
    return min(
        (
            (sum(tensor.convert_us[emitted, to] for to in copies), len(copies))
            for copies in sets
            if all(wanted & {emitted, *copies} for wanted in accepted)
        ),
        default=None,
    )


def _latency(problem, chosen, formats):
    """The least latency of one assignment, or None."""
    total = problem.fixed_us
    accepted = {t.name: [] for t in problem.tensors}
    for op in problem.operators:
        choice, out = chosen[op.name], formats[op.output]
        emitted = 32 if out == 32 else 8
        if emitted not in choice.latency_us:
            return None
        total += choice.latency_us[emitted] + problem.call_us
        tie = next(t.tie for t in problem.tensors if t.name == op.output)
        for name, exact in zip(op.inputs, op.exact_inputs, strict=True):
            wanted = {choice.in_bits} if exact or choice.in_bits == 32 else set(range(1, 9))
            if tie == name and out != 32 and choice.in_bits != 32:
                wanted &= {out}
            accepted[name].append(wanted)
    for tensor in problem.tensors:
        if tensor.required:
            accepted[tensor.name].append({tensor.required})
        copies = _cheapest_copies(tensor, formats[tensor.name], accepted[tensor.name])
        if copies is None:
            return None
        # of equally cheap sets the smaller one: with call overhead it is cheaper, without it is equal
        total += copies[0] + problem.call_us * copies[1]
    return total


@pytest.fixture(scope="session")
def brute():
    """problem -> every buildable assignment as (labels, formats, {quantity: value})."""

    def enumerate_all(problem):
        found = []
        stored = [(t.fixed,) if t.fixed else t.formats for t in problem.tensors]
        for choices in itertools.product(*(o.choices for o in problem.operators)):
            chosen = {o.name: c for o, c in zip(problem.operators, choices, strict=True)}
            sums = {
                "loss": sum(c.loss for c in choices),
                "size": sum(c.size_bytes for c in choices),
                "energy": sum(c.energy_mj for c in choices),
            }
            for bits in itertools.product(*stored):
                formats = {t.name: b for t, b in zip(problem.tensors, bits, strict=True)}
                latency = _latency(problem, chosen, formats)
                if latency is not None:
                    labels = {o: c.label for o, c in chosen.items()}
                    found.append((labels, formats, {**sums, "latency": latency}))
        return found

    return enumerate_all


@pytest.fixture(scope="session")
def network():
    """(operators, seed) -> a residual network with 12 choices an operator and 3 formats a tensor, unlike any other."""

    def make(count, seed=0):
        rng = random.Random(seed)
        base = {(32, 8): 3.0, (32, 4): 3.2, (8, 32): 2.5, (4, 32): 2.5, (8, 4): 1.5, (4, 8): 1.5}
        tensors = [Tensor("in", (32, 8, 4), base, fixed=32)]
        operators = []
        skip = "in"
        for i in range(count):
            time, loss, size = rng.uniform(5, 200), 10 ** rng.uniform(-5, -1), rng.randint(1000, 200000)
            choices = [Choice("fp32", 32, {32: time * 4, 8: time * 4.1}, size * 4)]
            for w, a in itertools.islice(itertools.product((8, 6, 4, 3, 2, 1), (8, 4)), 11):
                us = time * (0.5 + w / 16) * (0.5 + a / 16)
                choices.append(
                    Choice(
                        f"w{w}a{a}",
                        a,
                        {32: us * rng.uniform(0.9, 1.3), 8: us * rng.uniform(0.8, 1.2)},
                        size * w // 8,
                        loss * (2.0 ** (8 - w) + 2.0 ** (8 - a)) * rng.uniform(0.5, 1.5),
                    )
                )
            previous = tensors[-1].name
            residual = i % 2 == 1 and i > 1
            inputs = (previous, skip) if residual else (previous,)
            operators.append(Operator(f"conv{i}", inputs, f"t{i}", tuple(choices), (True, False)[: len(inputs)]))
            convert = {pair: us * rng.uniform(0.5, 2) for pair, us in base.items()}
            tensors.append(Tensor(f"t{i}", (32, 8, 4), convert, required=32 if i == count - 1 else None))
            if i % 2 == 1:
                skip = f"t{i}"
        return Problem(tuple(operators), tuple(tensors), fixed_us=10.0, call_us=1.0)

    return make
