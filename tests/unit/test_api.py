"""The functions of `tvm_mpq`: typed, documented keywords, and a helpful word about one that is misspelt."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import tvm_mpq as mpq
from tvm_mpq import keywords, pipeline
from tvm_mpq.errors import MPQError, UnknownKeywordError

FUNCTIONS = {name: getattr(mpq, name) for name in mpq.__all__ if name.islower()}
OPTIONS = {field.name: field for field in dataclasses.fields(mpq.Options)}


def test_everything_that_is_promised_is_there() -> None:
    assert all(hasattr(mpq, name) for name in mpq.__all__)
    assert mpq.Options is pipeline.Options and mpq.Result is pipeline.Result
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        mpq.optimise  # type: ignore[attr-defined]  # noqa: B018
    assert set(FUNCTIONS) >= {"optimize", "search", "compare", "tune", "sensitivity", "build", "run", "inspect"}


def test_keywords_are_the_options() -> None:
    """All but what a function names itself, or what the command line alone knows."""
    known = {**keywords.OptimizeKeywords.__annotations__, **keywords.CompareKeywords.__annotations__}
    assert known.keys() | {"model", "budget", "command"} == OPTIONS.keys()
    assert keywords.MEANINGS.keys() == known.keys()
    for name, annotation in known.items():
        kind = str(OPTIONS[name].type)
        assert kind == "Any" or annotation.__forward_arg__ == kind, name


@pytest.mark.parametrize("name", keywords.MEANINGS)
def test_defaults_are_told_as_they_are(name: str) -> None:
    default, meaning = OPTIONS[name].default, keywords.MEANINGS[name]
    if default is not None:
        assert re.search(rf"(default {re.escape(str(default))}\b|`{default}`(,| \()[^;]*default)", meaning), meaning


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_hides_nothing(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    assert not {p.kind for p in parameters} & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    documented = FUNCTIONS[name].__doc__.partition("Parameters")[2]
    assert documented or name == "load_model"
    lines = re.findall(r"^    (\w[\w, ]*)$", documented, re.M)
    told = {word for line in lines for word in line.split(", ")}
    assert name == "load_model" or {p.name for p in parameters} <= told
    assert "**options" not in documented


@pytest.mark.parametrize(
    ("function", "given", "text"),
    [
        (mpq.optimize, {"obsrver": "mse"}, r"optimize\(\) has no keyword 'obsrver'; the nearest is 'observer'"),
        (mpq.search, {"point": 3}, r"search\(\) has no keyword 'point'; the nearest is 'points'"),
        (mpq.optimize, {"latency_ration": 1}, r"limits stand in budget=tvm_mpq.Budget\(latency_ratio=\.\.\.\)"),
        (mpq.build, {"xyz": 3}, r"build\(\) has no keyword 'xyz'; known are batch, calibration_samples, "),
        (mpq.inspect, {"rpc": "h:1"}, r"inspect\(\) has no keyword 'rpc'"),
    ],
)
def test_a_misspelt_keyword(function: Callable[..., Any], given: dict[str, Any], text: str) -> None:
    with pytest.raises(UnknownKeywordError, match=text) as caught:
        function("nowhere.onnx", **given)
    assert isinstance(caught.value, MPQError) and isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("function", "job", "given", "passed", "optional"),
    [
        ("optimize", "optimize_network", {"budget": mpq.Budget(size_mb=1.0), "nearest": True}, {}, {"nearest": True}),
        ("search", "search_network", {"points": 3, "seed": 1, "plans": "p"},
         {"points": 3, "axis": "latency", "plans": "p"}, {"seed": 1}),
        ("compare", "compare_methods", {"budgets": [1], "latency_source": "mpic"},
         {"methods": ("all",), "budgets": [1], "measure": False, "axis": "latency"}, {"latency_source": "mpic"}),
        ("tune", "tune_network", {"trials": 5, "workers": 2}, {"trials": 5, "minutes": None}, {"workers": 2}),
        ("sensitivity", "network_sensitivity", {"observer": "minmax"}, {}, {"observer": "minmax"}),
        ("inspect", "inspect_network", {"batch": 3}, {}, {"batch": 3}),
        ("build", "build_network", {"uniform": "w8a8"}, {"uniform": "w8a8", "keep": (), "plan": None}, {}),
        ("finetune", "build_network", {"uniform": "w4a8", "epochs": 2}, {"uniform": "w4a8", "keep": (), "plan": None},
         {"finetune_epochs": 2}),
    ],
)  # fmt: skip
def test_each_function_is_its_job(
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    job: str,
    given: dict[str, Any],
    passed: dict[str, Any],
    optional: dict[str, Any],
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(pipeline, job, lambda options, **own: seen.extend((options, own)) or "done", raising=False)
    assert FUNCTIONS[function]("m.onnx", **given) == "done"
    options, own = seen
    assert own == passed and options.model == "m.onnx"
    assert {name: getattr(options, name) for name in optional} == optional
