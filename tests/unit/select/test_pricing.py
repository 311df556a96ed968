import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.select.pricing import price
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor

CHOICES = (
    Choice("w8a8", 8, {8: 2.0, 32: 3.0}, 10, 0.5, 1.0),
    Choice("w4a4", 4, {8: 1.0}, 5, 1.5, 2.0),
    Choice("fp32", 32, {32: 9.0}, 40, 0.0),
)
POOL = (Choice("a8", 8, {8: 0.5}, energy_mj=0.5), Choice("fp32", 32, {32: 1.0}, energy_mj=0.5))


def _problem(exact_pool=False):
    """x -> conv -> y -> pool (tied) -> p -> add(p, y) -> z."""
    every = {(32, 8): 1.0, (32, 4): 1.0, (8, 32): 2.0, (8, 4): 4.0, (4, 8): 8.0}
    return Problem(
        (
            Operator("conv", ("x",), "y", CHOICES, (True,)),
            Operator("pool", ("y",), "p", POOL, (exact_pool,)),
            Operator("add", ("p", "y"), "z", (Choice("a8", 8, {8: 0.25, 32: 0.5}, energy_mj=1.0),), (False, False)),
        ),
        (
            Tensor("x", (32, 8, 4), every, fixed=32),
            Tensor("y", (32, 8, 4), every),
            Tensor("p", (32, 8, 4), every, tie="y"),
            Tensor("z", (32,), required=32),
        ),
        fixed_us=100.0,
        call_us=10.0,
    )


def _labels(conv="w8a8", pool="a8"):
    return {"conv": conv, "pool": pool, "add": "a8"}


def test_totals_conversions_and_reads():
    cost = price(_problem(), _labels(), {"x": 32, "y": 8, "p": 8, "z": 32})
    assert cost.latency_us == 100 + 4 * 10 + 1 + 2 + 0.5 + 0.5
    assert (cost.size_bytes, cost.loss, cost.energy_mj) == (10, 0.5, 2.5)
    assert cost.conversions == (("x", 32, 8),)
    assert cost.reads == {"conv": (8,), "pool": (8,), "add": (8, 8)}


def test_a_tied_output_asks_for_its_source_in_its_own_format():
    cost = price(_problem(), _labels(), {"x": 32, "y": 8, "p": 4, "z": 32})
    assert cost.conversions == (("x", 32, 8), ("y", 8, 4))
    assert cost.reads == {"conv": (8,), "pool": (4,), "add": (4, 8)}


def test_a_float_producer_is_not_tied():
    problem = _problem()
    cost = price(problem, _labels(pool="fp32"), {"x": 32, "y": 8, "p": 32, "z": 32})
    assert cost.conversions == (("x", 32, 8), ("y", 8, 32), ("p", 32, 8))  # equal in price: more bits
    assert cost.reads == {"conv": (8,), "pool": (32,), "add": (8, 8)}


def test_of_several_integer_copies_the_one_with_most_bits_is_read():
    conversions = {(32, 8): 1.0, (32, 4): 1.0}
    problem = Problem(
        tuple(
            Operator(f"conv{bits}", ("x",), f"y{bits}", (Choice(f"w8a{bits}", bits, {8: 1.0}),), (True,))
            for bits in (4, 8)
        )
        + (Operator("add", ("x", "y8"), "z", (Choice("a8", 8, {8: 1.0}),), (False, False)),),
        (Tensor("x", (32, 8, 4), conversions, fixed=32), Tensor("y4", (8,)), Tensor("y8", (8,)), Tensor("z", (8,))),
    )
    cost = price(problem, {"conv4": "w8a4", "conv8": "w8a8", "add": "a8"}, {"x": 32, "y4": 8, "y8": 8, "z": 8})
    assert cost.conversions == (("x", 32, 4), ("x", 32, 8))
    assert cost.reads["add"] == (8, 8)


def test_unknown_energy_is_not_a_number():
    cost = price(_problem(), _labels(conv="fp32"), {"x": 32, "y": 32, "p": 8, "z": 32})
    assert cost.energy_mj is None
    assert cost.quantity("energy") != cost.quantity("energy")


@pytest.mark.parametrize(
    "labels, formats, text",
    [
        (_labels(conv="w4a4"), {"y": 32}, "operator 'conv' cannot emit 32 bits at w4a4"),
        (_labels(), {"x": 8}, "tensor 'x' cannot be stored at 8 bits"),
        (_labels(), {"y": 7}, "tensor 'y' cannot be stored at 7 bits"),
        (_labels(conv="w9a9"), {}, "operator 'conv' has the choices"),
        (_labels(pool="fp32"), {"y": 4, "p": 32}, "tensor 'y' has no conversion from 4 to 32 bits"),
    ],
)
def test_what_cannot_be_built_is_refused(labels, formats, text):
    with pytest.raises(InvalidValueError, match=text):
        price(_problem(), labels, {"x": 32, "y": 8, "p": 8, "z": 32} | formats)


def test_an_exact_tied_input_must_be_emitted_as_read():
    with pytest.raises(InvalidValueError, match=r"'pool' reads 8 bits and must emit the same \(got 4\)"):
        price(_problem(exact_pool=True), _labels(), {"x": 32, "y": 8, "p": 4, "z": 32})
