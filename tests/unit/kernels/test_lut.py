"""Look-up convolutions equal the definition bit for bit: shapes, tails, ends of ranges, every epilogue and tile."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from mpq_testing import low_bit
from mpq_testing.low_bit import make_operands
from tvm_mpq.kernels import Family, Kernel, Request, families
from tvm_mpq.kernels.machines.vbmi512_tables import partial_sums
from tvm_mpq.kernels.packing.table_indices import (
    CODINGS,
    TABLE_BYTES,
    TableShape,
    even_parts,
    index_shape,
    pack_indices,
)
from tvm_mpq.numerics.affine import quantize
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import Conv2dWorkload, Precision
from tvm_mpq.targets import features, local_row

C = Conv2dWorkload
MCPU = "icelake-server"
check = functools.partial(low_bit.check, mcpu=MCPU)
SAME = (1, 1, 1, 1)
NEEDED = frozenset({"avx512f", "avx512bw", "avx512vnni", "avx512vbmi"})
HOST_FEATURES = features(local_row())
needs_vbmi = pytest.mark.skipif(not NEEDED <= HOST_FEATURES, reason="this CPU lacks AVX-512 VNNI or VBMI")

BITS = [(2, 4, 8), (2, 5, 32), (2, 2, 8), (2, 3, 32), (1, 4, 8), (1, 5, 8), (1, 2, 32), (1, 3, 8)]
"""Weight, activation and output bits."""
CHANNELS = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 7, 7, 10, 16, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 16, 10, (5, 5), (2, 2), (2, 2, 2, 2)),
    C(1, 7, 7, 17, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 1, 1, 33, 64, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 64, 7, (3, 1), (1, 2), (1, 0, 1, 0)),
    C(3, 5, 5, 100, 1, (1, 1)),
    C(1, 7, 7, 63, 63, (3, 3), (1, 1), SAME, activation="relu"),
    C(1, 1, 197, 20, 40, (1, 1), residual=True),
    C(2, 9, 9, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3), residual=True, activation="relu"),
    C(1, 7, 7, 10, 33, (1, 1), (2, 1), (1, 0, 0, 2)),
    C(2, 8, 6, 20, 20, (3, 3), (1, 1)),
    C(1, 9, 7, 12, 16, (2, 3), (3, 3), (0, 0, 0, 1)),
    C(1, 4, 1, 5, 17, (3, 3), (5, 5), (4, 4, 4, 0)),
    *(C(1, 1, rows, 70, 100, (1, 1)) for rows in (1, 2, 3)),
]
TABLES = [
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 4, 5, 20, 3, (1, 1), residual=True, activation="silu"),
]


def family(weight_bits: int) -> Family:
    (row,) = (f for f in families() if f.name == f"qu8_qs{weight_bits}_s32_lutconv2d__avx512vbmi")
    return row


def some_knobs(request: Request, turn: int, **changed: object) -> dict[str, object]:
    space = family(request.precision.weight_bits).knob_space(request)
    return {**space[turn % len(space)], **changed}


@needs_vbmi
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weight_bits, bits, out_bits", BITS)
def test_equals_reference(weight_bits: int, bits: int, out_bits: int, threads: int, rng: np.random.Generator) -> None:
    """Workloads, thread counts and bits meet in turns; so do bands of one row, of a few and of the whole map."""
    for turn, w in enumerate(CHANNELS):
        if (turn + 2 * BITS.index((weight_bits, bits, out_bits)) + threads) % 8:
            continue
        request = Request(w, Precision(weight_bits, bits), out_bits, NEEDED, threads)
        assert family(weight_bits).fits(request)
        band, depth = (1, 3, 1000)[(turn // 8 + bits) % 3], (turn + bits) % 4 + 1
        knobs = some_knobs(request, turn, band=band, depth=depth)
        check(Kernel(request, family(weight_bits), knobs), rng)


@needs_vbmi
@pytest.mark.parametrize("weight_bits", [1, 2])
@pytest.mark.parametrize("w", TABLES, ids=["hard_swish", "silu"])
def test_table_activation_equals_reference(weight_bits: int, w: C, rng: np.random.Generator) -> None:
    request = Request(w, Precision(weight_bits, 4), 8, NEEDED)
    check(Kernel(request, family(weight_bits), some_knobs(request, 0)), rng)


@needs_vbmi
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("weight_bits", [1, 2])
def test_ends_of_the_ranges(weight_bits: int, bits: int, rng: np.random.Generator) -> None:
    """All activations at one end, all weights at one: the greatest sums that bytes must hold."""
    w = C(1, 5, 5, 40, 20, (3, 3), (1, 1), SAME)
    request = Request(w, Precision(weight_bits, bits), 32, NEEDED)
    check(Kernel(request, family(weight_bits), some_knobs(request, 0, depth=4)), rng, (1, -1))


@needs_vbmi
@pytest.mark.parametrize("weight_bits", [1, 2])
def test_every_candidate_equals_reference(weight_bits: int, rng: np.random.Generator) -> None:
    request = Request(C(1, 8, 9, 48, 64, (3, 3), (1, 1), SAME), Precision(weight_bits, 4), 8, NEEDED)
    space = family(weight_bits).knob_space(request)
    assert 3 <= len(space) <= 12
    for knobs in space:
        check(Kernel(request, family(weight_bits), knobs), rng)


@needs_vbmi
def test_a_channel_of_zeros_gives_its_bias(rng: np.random.Generator) -> None:
    """One bit has no zero: the channel's scale makes its sums vanish, in the kernel as in the definition."""
    w = C(1, 7, 7, 20, 17, (3, 3), (1, 1), SAME)
    request = Request(w, Precision(1, 4), 8, NEEDED)
    operands = make_operands(w, 4, 8, rng, None)
    assert operands.weight is not None and operands.bias is not None and operands.output is not None
    operands.weight[5] = 0
    x = rng.integers(0, 16, (1, 7, 7, 20)).astype(np.uint8)
    got = low_bit.compiled(Kernel(request, family(1), some_knobs(request, 0)), MCPU)(operands, [x])
    np.testing.assert_array_equal(got, evaluate(w, request.precision, 8, operands, [x]))
    assert (got[..., 5] == quantize(operands.bias[5], operands.output)).all()


def test_looked_up_bytes_cannot_overflow() -> None:
    for coding, bits in itertools.product(CODINGS.values(), (2, 3, 4, 5)):
        limit = coding.sums_limit(bits)
        assert limit >= 1 and limit * coding.group * (2**bits - 1) <= (127 if coding.signed else 255)
        assert coding.sums_limit(6) == 0


@pytest.mark.parametrize("weight_bits", [1, 2])
def test_tables_hold_the_sums(weight_bits: int, rng: np.random.Generator) -> None:
    """Partial sums and picks, in plain indexing, give every entry of every table."""
    coding = CODINGS[weight_bits]
    terms, picks = partial_sums(coding)
    a = np.zeros(32, np.int64)
    a[: coding.together * coding.channels] = rng.integers(0, 32, coding.together * coding.channels)
    v = np.concatenate([a, -a if coding.signed else np.zeros(32, np.int64)])
    sums = np.sum([v[t] for t in terms], axis=0)
    for table, parts in enumerate(picks):
        got = np.sum([sums[p] for p in parts], axis=0)
        for q, e in itertools.product(range(coding.groups), range(1 << coding.group)):
            group = a[table * coding.channels + q * coding.group :][: coding.group]
            chosen = [x if e >> j & 1 else -x if coding.signed else 0 for j, x in enumerate(group)]
            assert got[(q << coding.group) + e] == sum(chosen)


def test_parts_cover_everything_once() -> None:
    for count, limit in itertools.product(range(1, 20), range(1, 5)):
        parts = even_parts(count, limit)
        assert [i for start, stop in parts for i in range(start, stop)] == list(range(count))
        assert max(stop - start for start, stop in parts) <= limit and len(parts) == -(-count // limit)


@pytest.mark.parametrize("weight_bits, depth", [(2, 1), (2, 4), (1, 2)])
def test_indices_select_the_subsets(weight_bits: int, depth: int, rng: np.random.Generator) -> None:
    """A look-up in plain loops over the packed indices gives the sum of products."""
    w, coding = C(1, 1, 1, 37, 20, (1, 3), (1, 1), (0, 1, 0, 1)), CODINGS[weight_bits]
    shape = TableShape.of(w, coding)
    weight = rng.integers(-2, 2, (20, 1, 3, 37)) if weight_bits == 2 else rng.choice([-1, 1], (20, 1, 3, 37))
    packed = pack_indices(weight.astype(np.int8), shape, coding, depth)
    assert packed.shape == index_shape(shape, 20) and packed.max() < TABLE_BYTES
    x = np.zeros((3, shape.tables * coding.channels), np.int64)
    x[:, :37] = rng.integers(0, 16, (3, 37))
    flat = x.reshape(3, shape.tables, coding.groups, coding.group)
    factors = (1, -2, 1, -2) if weight_bits == 2 else (1, 1, 1, 1)
    for o in (0, 7, 19):
        total = 0
        for (i, (table, column)), byte in itertools.product(enumerate(shape.order(depth)), range(4)):
            q, entry = divmod(int(packed[o // 16, i, o % 16, byte]), 1 << coding.group)
            group = flat[column, table, q]
            subset = sum(int(a) if entry >> j & 1 else -int(a) * coding.signed for j, a in enumerate(group))
            total += factors[byte] * subset
        assert total == int((x[:, :37] * weight[o, 0]).sum())


@pytest.mark.parametrize("bits", [1, 2])
def test_refuses_what_it_cannot_do(bits: int) -> None:
    w = C(1, 8, 8, 16, 16, (3, 3), (1, 1), SAME)
    row, precision = family(bits), Precision(bits, 4)
    assert row.fits(Request(w, precision, 8, NEEDED))
    refused = [
        Request(w, Precision(bits, 6), 8, NEEDED),
        Request(w, Precision(3 - bits, 4), 8, NEEDED),
        Request(w, Precision(3, 4), 8, NEEDED),
        Request(w, precision, 8, NEEDED - {"avx512vbmi"}),
        Request(dataclasses.replace(w, groups=4), precision, 8, NEEDED),
        Request(dataclasses.replace(w, dilation=(2, 2)), precision, 8, NEEDED),
        Request(dataclasses.replace(w, activation="gelu"), precision, 32, NEEDED),
    ]
    assert not [r.key for r in refused if row.fits(r)]
