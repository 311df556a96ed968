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


def test_the_least_numbers_are_taken_and_what_lies_below_is_not():
    free = dataclasses.replace(CHOICE, latency_us={8: 0.0}, size_bytes=0, loss=-1.0, energy_mj=0.0)
    _problem({"choices": (free,)}, y={"convert_us": {(8, 32): 0.0}}, fixed_us=0.0, call_us=0.0)
    for field in ("size_bytes", "energy_mj"):
        with pytest.raises(InvalidValueError, match=rf"{field} must be 0 or more \(got -1\)"):
            _problem({"choices": (dataclasses.replace(CHOICE, **{field: -1}),)})
    with pytest.raises(InvalidValueError, match="conversion 8 -> 32 must be 0 or more"):
        _problem(y={"convert_us": {(8, 32): -0.5}})


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_every_format_may_be_read_and_stored(bits):
    _problem(
        {"choices": (dataclasses.replace(CHOICE, in_bits=bits),)},
        x={"formats": (bits,), "convert_us": {}, "fixed": bits},
    )


def test_copies_leave_a_format_to_be_emitted():
    assert _problem(y={"copies_only": (8,)}).tensor_by_name["y"].copies_only == (8,)
    for copies in ((32, 8), (8, 4)):
        with pytest.raises(InvalidValueError, match="copies_only must leave one of"):
            _problem(y={"copies_only": copies})


def test_a_network_input_is_tied_to_nothing():
    with pytest.raises(InvalidValueError, match=r"tie must be an input of its producer, \(\)"):
        _problem(x={"tie": "y"})
    assert _problem(y={"tie": "x"}).tensor_by_name["y"].tie == "x"


def test_no_assignment_costs_less_than_the_least():
    """Hand-made: two operators of two choices, the second without energy in a further problem."""
    cheap = Choice("w4a8", 8, {8: 4.0, 32: 3.0}, 5, 0.75, 2.0)
    dear = Choice("w8a8", 8, {8: 1.0}, 10, -0.5, 3.0)
    second = Operator("second", ("y",), "z", (cheap, dear), (True,))
    first = dataclasses.replace(CONV, choices=(dataclasses.replace(CHOICE, energy_mj=0.5),))
    problem = Problem((first, second), (X, Y, Tensor("z", (8,))), fixed_us=100.0, call_us=10.0)
    found = {name: problem.least(name) for name in ("latency", "size", "loss", "energy")}
    assert found == {"latency": 100 + 11 + 11, "size": 15, "loss": 0.0, "energy": 2.5}
    unknown = dataclasses.replace(problem, operators=(CONV, second))
    assert unknown.least("latency") == found["latency"]
    with pytest.raises(InvalidValueError, match="operator 'conv': energy of choice 'w8a8' is unknown"):
        unknown.least("energy")


def test_one_choice_is_left_of_the_operators_named():
    second = Operator("second", ("y", "y", "x"), "z", (CHOICE, dataclasses.replace(CHOICE, label="w4a8")), (True,) * 3)
    problem = Problem((CONV, second), (X, Y, Tensor("z", (8,))))
    kept = problem.restricted({"second": "w4a8"})
    assert [[c.label for c in o.choices] for o in kept.operators] == [["w8a8"], ["w4a8"]]
    assert problem.consumers == {"x": (CONV, second), "y": (second,), "z": ()}
    with pytest.raises(InvalidValueError, match=r"no operator 'third'; known are conv, second$"):
        problem.restricted({"third": "w4a8"})


def test_of_many_names_eight_are_listed():
    def many(count):
        tensors = (X, *(Tensor(f"t{i}", (8,), {}, fixed=8) for i in range(count - 1)))
        with pytest.raises(InvalidValueError) as caught:
            Problem((dataclasses.replace(CONV, inputs=("q",)),), (*tensors[:-1], Y) if count > 1 else tensors)
        return str(caught.value)

    assert many(8).endswith("known are x, t0, t1, t2, t3, t4, t5, y")
    assert many(9).endswith("t5, t6 and 1 more")


def test_zero_is_a_limit():
    assert dict(Limits(0.0, 0, 0.0, 0.0).active()) == dict.fromkeys(("loss", "size", "energy", "latency"), 0.0)
    assert Limits().tightened("energy", 2.0) == Limits(energy_mj=2.0)
