"""Search methods by name."""

from __future__ import annotations

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.ilp import DEFAULT_TIME_LIMIT_SEC
from tvm_mpq.select.methods.amed import Amed
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.estimated import Estimated, EstimateLosses
from tvm_mpq.select.methods.free_bits import FreeBits
from tvm_mpq.select.methods.greedy import Greedy
from tvm_mpq.select.methods.haq import EPISODES, LAST, Haq, Learn, checked_cut
from tvm_mpq.select.methods.learned_bits import LearnBits, LearnedBits
from tvm_mpq.select.methods.random_plans import RandomPlans
from tvm_mpq.select.methods.search import Method, PlanSearcher
from tvm_mpq.select.methods.uniform_plans import UniformPlans
from tvm_mpq.select.searcher import IntegerProgram, Searcher

ILP = "ilp"

METHODS = (
    *(ILP, Estimated.name, Greedy.name, Amed.name, Haq.name, LearnedBits.name),
    *(RandomPlans.name, UniformPlans.name),
)
"""All of them, the usual order in tables."""


def searcher_for(
    method: str,
    effort: Effort,
    *,
    time_limit_sec: float = DEFAULT_TIME_LIMIT_SEC,
    pin_ends: bool = False,
    cut: str = LAST,
    walks: int | None = None,
    free_bits: bool = False,
    learn: Learn | None = None,
    bits: LearnBits | None = None,
    losses: EstimateLosses | None = None,
) -> Searcher:
    """The searcher of a method's name.

    time_limit_sec: of the solver, for each solution. pin_ends: `amed` and `haq` hold first and last operator at
    8 bits. cut: how `haq` comes within the limits. walks: of its agent; None = as many as the paper's. learn: that
    agent, needed there and nowhere else. free_bits: the free-bits step after it. bits: what learns those that
    `freebits` begins with, needed there alone. losses: what estimates those that `ohq` goes by; None = those of the
    problem are estimates already.

    Raises
    ------
    InvalidValueError
        For an unknown name of a method or a cut, `haq` without an agent, or `freebits` without what learns.
    """
    if method not in METHODS:
        raise InvalidValueError(f"method must be one of {', '.join(METHODS)} (got {method!r})")
    checked_cut(cut)
    found: Searcher
    if method == ILP:
        found = IntegerProgram(time_limit_sec)
    elif method == Estimated.name:
        found = Estimated(losses, time_limit_sec)
    elif method == Haq.name:
        if learn is None:
            raise InvalidValueError("method haq needs an agent that learns (got None)")
        found = PlanSearcher(Haq(learn, cut=cut, pin_ends=pin_ends, episodes=walks or EPISODES), effort)
    elif method == LearnedBits.name:
        if bits is None:
            raise InvalidValueError(f"method {method} needs what learns bits from the network and data (got None)")
        found = PlanSearcher(LearnedBits(bits), effort)
    else:
        ways: tuple[Method, ...] = (Greedy(), Amed(pin_ends=pin_ends), RandomPlans(), UniformPlans())
        found = PlanSearcher(next(way for way in ways if way.name == method), effort)
    return FreeBits(found) if free_bits else found
