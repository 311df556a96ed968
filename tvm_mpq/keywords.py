"""Keywords of the Python functions: their types, what they mean, and what becomes of one that is misspelt.

The types are what type checkers and editors read (PEP 692); `spelled_out` makes a function's signature and its
documentation from them when the program runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from tvm_mpq.errors import UnknownKeywordError
from tvm_mpq.schema import Budget

if TYPE_CHECKING:
    import numpy.typing as npt

    from tvm_mpq.schema import Progress

_F = TypeVar("_F", bound=Callable[..., Any])


class ModelKeywords(TypedDict, total=False):
    """How a model is imported."""

    target: Any
    example_inputs: Any
    batch: int | None
    input_shapes: Mapping[str, Sequence[int]] | None
    requantize: bool
    precisions: Sequence[str] | None
    threads: int | None
    verify_import: bool
    progress: Progress | None
    say: Callable[[str], None] | None


class WorkKeywords(ModelKeywords, total=False):
    """How it is calibrated and measured."""

    data: str | Path | Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any] | None
    db: str | Path | None
    workers: int | None
    rpc: str | None
    key: str | None
    observer: str
    rounding: str
    rounding_samples: int
    calibration_samples: int
    sensitivity_samples: int


class MethodKeywords(WorkKeywords, total=False):
    """How plans are searched."""

    method: str
    solver_time_limit_sec: float
    seed: int
    evaluations: int | None
    method_seconds: float | None
    pin_ends: bool
    cut: str
    walks: int | None
    free_bits: bool
    regulariser: str
    updates: int | None
    measure_fraction: float


class SearchKeywords(MethodKeywords, total=False):
    """What they are weighed by."""

    latency_source: str


class CompareKeywords(SearchKeywords, total=False):
    """How they are run end to end."""

    eval_data: str | Path | Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any] | None


class OptimizeKeywords(MethodKeywords, total=False):
    """How one is chosen."""

    eval_data: str | Path | Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any] | None
    judge: str
    check_samples: int
    finetune_epochs: int
    nearest: bool


MEANINGS = {
    "target": "a name from `tvm-mpq targets`, a `tvm.target.Target`, or `local`, the default: this CPU",
    "example_inputs": "arguments of an `nn.Module`, by which it is traced",
    "batch": "size given to a dynamic batch axis; default 1",
    "input_shapes": "sizes of inputs with dynamic axes, the batch among them: name -> sizes",
    "requantize": "of a file that was quantized elsewhere: find scales and integers anew; default False",
    "precisions": "those to choose from, such as `['w4a8', 'w2a4']`, beside fp32 and w8a8; None = all that pay",
    "threads": "of a run of the library; None = those of the plan that is built, else 1",
    "verify_import": "compare the import with an independent evaluator on one sample; default True",
    "progress": "called with how much is done, of how much, and what; None = nobody listens",
    "say": "called with messages; None = nobody listens",
    "data": "calibration data: path of an `.npz`, arrays by the inputs' names, one array, or None = synthetic ones",
    "db": "latency database; None = the user's cache",
    "workers": "processes that compile kernels; None = one for each core",
    "rpc": "`HOST:PORT` of a board's RPC server, or with `key` of a tracker; None = this machine",
    "key": "the boards' key at the tracker",
    "observer": "of activation ranges: `minmax`, `percentile`, `mse` (default) or `output`",
    "rounding": "of weights: `nearest`, `gptq` (default) or `adaround`",
    "rounding_samples": "that weights are rounded on; default 128",
    "calibration_samples": "that ranges are found on; default 64",
    "sensitivity_samples": "that losses of single operators are found on; default 32",
    "method": "that searches plans: `ilp` (default, exact), `ohq`, `greedy`, `amed`, `haq`, `freebits`, `random` "
    "or `uniform`",
    "solver_time_limit_sec": "of the solver for each solution; default 60.0",
    "seed": "of methods that draw; default 0",
    "evaluations": "plans that a method other than `ilp` prices at most; None = its own default",
    "method_seconds": "after which such a method ends; None = it ends by itself",
    "pin_ends": "amed and haq hold first and last operator at 8 bits; default False",
    "cut": "where haq takes bits away for a budget: from the `last` (default) operator on, or where it is `cheapest`",
    "walks": "of haq's agent; None = 600, the paper's",
    "free_bits": "then raise the bits of whatever is faster with more; default False",
    "regulariser": "what bits cost while `freebits` learns them: `bitops` (default), or the tables' `latency`",
    "updates": "of the gates of `freebits`; None = 440",
    "measure_fraction": "of the unknown latencies to measure, the others are predicted; default 1.0",
    "latency_source": "of the latencies: `measured`, the default, or a simulated machine such as `zigzag:tpu_like`",
    "eval_data": "data like `data`, with labels, that the built networks are run on; None = the calibration data",
    "judge": "data that decide whether a plan keeps the drop: `calib` (default) or `eval`",
    "check_samples": "that plans are run on end to end; default 1000",
    "finetune_epochs": "in which the plan's weights learn from the fp32 network; default 0",
    "nearest": "where no plan keeps the budget, build the nearest one; default False",
}
"""Keyword -> what it is, with the default."""


class _Default:
    """Stands in a signature for a default that the keyword's meaning tells."""

    def __repr__(self) -> str:
        return "<default>"


def spelled_out(keywords: type) -> Callable[[_F], _F]:
    """A decorator: a function's `**options` are `keywords`, in its signature, its documentation and its calls.

    A call with another keyword raises UnknownKeywordError, which names the nearest.
    """

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        types = keywords.__annotations__  # those of the TypedDicts that it extends among them
        kind, default = inspect.Parameter.KEYWORD_ONLY, _Default()
        more = [inspect.Parameter(n, kind, default=default, annotation=_text(t)) for n, t in types.items()]
        known = {p.name for p in own} | types.keys()

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in known:
                    raise UnknownKeywordError(_unknown(function.__name__, name, known))
            return function(*args, **given)

        checked.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        told = "".join(f"    {name}\n        {_sentence(MEANINGS[name])}\n" for name in types)
        checked.__doc__ = (function.__doc__ or "").replace("    **options\n", told)
        return checked  # type: ignore[return-value]

    return decorate


def _text(annotation: Any) -> str:
    return str(getattr(annotation, "__forward_arg__", annotation))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "." if text[0].isalpha() else text + "."


def _unknown(function: str, name: str, known: set[str]) -> str:
    limits = {field.name for field in dataclasses.fields(Budget)} if "budget" in known else set()
    near = difflib.get_close_matches(name, sorted(known | limits), n=1)
    if near and near[0] in limits:
        hint = f"limits stand in budget=tvm_mpq.Budget({near[0]}=...)"
    else:
        hint = f"the nearest is {near[0]!r}" if near else f"known are {', '.join(sorted(known))}"
    return f"{function}() has no keyword {name!r}; {hint}"
