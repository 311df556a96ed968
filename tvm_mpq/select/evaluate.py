"""The price of given decisions, by the same model that the search uses: what `uniform w8a8` would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_mpq.select.ilp import Solution
from tvm_mpq.select.problem import Limits, Problem
from tvm_mpq.select.searcher import IntegerProgram, Searcher


def cost(problem: Problem, choices: Mapping[str, str], searcher: Searcher | None = None) -> Solution:
    """Price `choices` with the tensor formats that are fastest for them.

    choices: operator -> label. Operators that it does not name (weightless ones, usually) take their fastest choice.
    searcher: what finds the fastest formats; default: the integer program.

    Raises
    ------
    InfeasibleError
        If no tensor formats fit these choices.
    InvalidValueError
        For unknown operators or labels.
    """
    return (searcher or IntegerProgram()).best(problem.restricted(choices), Limits(), "latency")


def uniform(problem: Problem, label: str, fallback: Sequence[str] = ()) -> dict[str, str]:
    """`label` for every operator that offers it, else the first of `fallback` that it offers; others are left out.

    >>> from tvm_mpq.select.problem import Choice, Operator, Tensor
    >>> conv = Operator("conv", ("x",), "y", (Choice("w8a8", 8, {32: 1.0}), Choice("fp32", 32, {32: 4.0})), (True,))
    >>> tensors = (Tensor("x", (32, 8), {(32, 8): 1.0}, fixed=32), Tensor("y", (32,)))
    >>> uniform(Problem((conv,), tensors), "w4a8", fallback=("w8a8", "fp32"))
    {'conv': 'w8a8'}
    """
    labels: dict[str, str] = {}
    for operator in problem.operators:
        offered = {c.label for c in operator.choices}
        first = next((wanted for wanted in (label, *fallback) if wanted in offered), None)
        if first is not None:
            labels[operator.name] = first
    return labels
