import dataclasses
import math

import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.problem import Choice, Limits, Operator, Problem, Tensor

CHOICE = Choice("w8a8", 8, {8: 1.0, 32: 2.0}, 10, 0.5)
CONV = Operator("conv", ("x",), "y", (CHOICE,), (True,))
X = Tensor("x", (32, 8), {(32, 8): 1.0}, fixed=32)
Y = Tensor("y", (32, 8), {(8, 32): 1.0}, required=32)


def _problem(conv=None, x=None, y=None, **extra):
    """The valid problem with some fields replaced."""
    replaced = [
        dataclasses.replace(part, **(fields or {})) for part, fields in zip((CONV, X, Y), (conv, x, y), strict=True)
    ]
    return Problem((replaced[0],), tuple(replaced[1:]), **extra)


def test_a_valid_problem_is_taken():
    problem = _problem(fixed_us=3.0, call_us=0.5)
    assert problem.producers == {"y": CONV}
    assert problem.operator("conv").choice("w8a8") is CHOICE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["latency_us", "size_bytes", "loss", "energy_mj"])
def test_numbers_that_are_not_finite_are_refused_with_the_operators_name(field, bad):
    choice = dataclasses.replace(CHOICE, **{field: {8: bad} if field == "latency_us" else bad})
    with pytest.raises(InvalidValueError, match=rf"^operator 'conv', choice 'w8a8': {field}.* must be finite \(got "):
        _problem({"choices": (choice,)})


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"conv": {"choices": ()}}, "operator 'conv': at least one choice is needed"),
        ({"conv": {"choices": (CHOICE, CHOICE)}}, "operator 'conv': choice 'w8a8' must be unique"),
        ({"conv": {"inputs": ("q",)}}, "operator 'conv': no tensor 'q'; known are x, y"),
        ({"conv": {"exact_inputs": ()}}, "operator 'conv': exact_inputs needs one flag for each of 1 inputs"),
        ({"conv": {"choices": (dataclasses.replace(CHOICE, in_bits=16),)}}, "in_bits must be 1..8 or 32 .got 16"),
        ({"conv": {"choices": (dataclasses.replace(CHOICE, latency_us={}),)}}, "latency_us needs keys of"),
        ({"conv": {"choices": (dataclasses.replace(CHOICE, latency_us={4: 1}),)}}, "latency_us needs keys of"),
        ({"conv": {"choices": (dataclasses.replace(CHOICE, latency_us={8: -1}),)}}, "must be 0 or more .got -1"),
        ({"x": {"formats": ()}}, "tensor 'x': formats must be distinct"),
        ({"x": {"formats": (32, 8, 8)}}, "tensor 'x': formats must be distinct"),
        ({"x": {"formats": (32, 9)}}, "tensor 'x': formats must be distinct"),
        ({"x": {"fixed": 4}}, "tensor 'x': fixed must be one of its formats"),
        ({"x": {"fixed": None}}, "tensor 'x': no operator writes it"),
        ({"y": {"required": 4}}, "tensor 'y': required must be one of its formats"),
        ({"y": {"convert_us": {(8, 4): 1.0}}}, "tensor 'y': conversions join two of its formats"),
        ({"y": {"convert_us": {(8, 8): 1.0}}}, "tensor 'y': conversions join two of its formats"),
        ({"y": {"convert_us": {(8, 32): math.nan}}}, "tensor 'y': conversion 8 -> 32 must be finite"),
        ({"y": {"tie": "y"}}, "tensor 'y': tie must be an input of its producer"),
        ({"x": {"name": "y"}}, "tensor 'y' must be unique"),
        ({"fixed_us": math.inf}, "fixed_us must be finite"),
        ({"call_us": -1.0}, "call_us must be 0 or more"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(arguments, text):
    with pytest.raises(InvalidValueError, match=text):
        _problem(**arguments)


def test_two_operators_of_one_name_or_output_are_refused():
    with pytest.raises(InvalidValueError, match="operator 'conv' must be unique"):
        Problem((CONV, CONV), (X, Y))
    with pytest.raises(InvalidValueError, match="producer of tensor 'y' must be unique"):
        Problem((CONV, dataclasses.replace(CONV, name="other")), (X, Y))


def test_limits_refuse_what_is_not_finite():
    with pytest.raises(InvalidValueError, match="limit of loss must be finite"):
        Limits(loss=math.nan)


def test_limits_tighten_and_never_loosen():
    limits = Limits(latency_us=5.0, size_bytes=7)
    assert limits.tightened("latency", 3.0) == Limits(latency_us=3.0, size_bytes=7)
    assert limits.tightened("latency", 9.0) == limits
    assert limits.only(["size"]) == Limits(size_bytes=7.0)
