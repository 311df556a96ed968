"""The one table of kernel families: what each computes, what it needs of the machine, and how to build it.

Candidates, tests, tuning, documentation and `tvm-mpq inspect` walk `families()`. Choosing a kernel is a look-up over
rows, never an if-ladder. A family's kernels take, in this order: activations (data, then residual or second operand),
constants as `Family.constants` gives them, and the output last.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm.tirx import PrimFunc

from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels.order import ORDER
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.work import Work
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import Conv2dWorkload, DType, Precision, Workload

Knobs = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One kernel to build: everything the generated code depends on, and nothing else."""

    workload: Workload
    precision: Precision  # weight and activation bits; operators without weights: weight_bits = activation_bits
    out_bits: int  # 32 = emits float32, <= 8 = emits uint8
    features: frozenset[str]  # LLVM feature names of the target
    threads: int = 1

    @functools.cached_property
    def key(self) -> str:
        """Readable and unique on one target: what a plan and the database know the kernel choice by."""
        return f"{self.workload.key}@{self.precision}->{self.out_bits}"


@dataclass(frozen=True)
class Family:
    """One row of the table. All callables are pure."""

    name: str  # maths__machine, e.g. qu8_qs8_s32_conv2d__avx512vnni
    workload_type: type[Workload]
    isa_features: frozenset[str]
    weight_bits: frozenset[int]  # of a float row: those of its dtype
    activation_bits: frozenset[int]
    operand_ranges: str  # for people: the ranges within which the integers are exact
    accepts: Callable[[Request], bool]  # shapes and activations beyond what the columns above say
    knob_space: Callable[[Request], list[Knobs]]  # never empty; the first is the shipped default
    build: Callable[[Request, Knobs], PrimFunc]
    parameters: Callable[[Request, Knobs], Parameters]  # of the function that `build` gives
    work: Callable[[Request, Knobs], Work]  # of one run of it
    constants: Callable[[Request, Knobs, Operands], list[np.ndarray]]
    dtype: DType = DType.INT  # the numbers it computes with
    variant: Callable[[Request], Any] = lambda request: None
    """What of the precision changes the code. Precisions of equal family and variant run the same instructions."""
    max_terms: Callable[[Request], int | None] = lambda request: None
    """How many terms (`Workload.terms`) of whatever operands an output may add up, beside its bias, before an integer
    overflows on the way; None where no integer accumulates."""
    input_dilation: bool = False  # whether its convolutions may have input dilation
    offered: bool = True  # False: it only runs plans that name its precision, because floats are faster or as fast

    def fits(self, request: Request) -> bool:
        """Whether it serves the request, and exactly whatever the operands."""
        return self.serves(request) and self.holds(request)

    def serves(self, request: Request) -> bool:
        """Whether it is made for this kind of request on this machine."""
        return (
            isinstance(request.workload, self.workload_type)
            and self.isa_features <= request.features
            and request.precision.dtype is self.dtype
            and request.precision.weight_bits in self.weight_bits
            and request.precision.activation_bits in self.activation_bits
            and (self.input_dilation or not _has_input_dilation(request.workload))
            and not _cuts_an_edge(request.workload)
            and self.accepts(request)
        )

    def holds(self, request: Request) -> bool:
        """Whether the accumulators hold the sums of the request, whatever its operands."""
        most = self.max_terms(request)
        return most is None or request.workload.terms <= most


def _has_input_dilation(workload: Workload) -> bool:
    return isinstance(workload, Conv2dWorkload) and workload.input_dilation != (1, 1)


def _cuts_an_edge(workload: Workload) -> bool:
    """Padding that is negative cuts the input's edge off; no frame does that but in phases of a dilated input."""
    if not isinstance(workload, Conv2dWorkload) or workload.input_dilation != (1, 1):
        return False
    return min(workload.padding) < 0


@dataclass(frozen=True)
class Kernel:
    """A family with its knobs fixed, for one request."""

    request: Request
    family: Family
    knobs: Knobs = field(default_factory=dict)

    def build(self) -> PrimFunc:
        """The kernel's PrimFunc."""
        return _built(self.request, self.family.name, self.knobs_text)

    @property
    def buffers(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each parameter, in order."""
        stated = self.family.parameters(self.request, self.knobs)
        return tuple((array.shape, array.dtype) for array in stated.all())

    def to_json(self) -> dict[str, Any]:
        """What another process needs to build the same kernel, for `kernel_from_json`."""
        r = self.request
        request = {
            "workload": r.workload.to_json(),
            "precision": str(r.precision),
            "out_bits": r.out_bits,
            "features": sorted(r.features),
            "threads": r.threads,
        }
        return {"request": request, "family": self.family.name, "knobs": self.knobs}

    def constants(self, operands: Operands) -> list[np.ndarray]:
        """The arrays that it takes behind its activations, of the shapes and dtypes that `buffers` states."""
        return self.family.constants(self.request, self.knobs, operands)

    @property
    def work(self) -> Work:
        """Arithmetic and bytes of one run."""
        return self.family.work(self.request, self.knobs)

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for kernels that are the same code on one target: request, family, knobs."""
        return self.request.key, self.family.name, self.knobs_text

    @property
    def is_offered(self) -> bool:
        """Whether its row offers the knobs for the request: others may mean nothing, or tiles past their buffers."""
        return self.knobs in self.family.knob_space(self.request)

    @property
    def knobs_text(self) -> str:
        """The knobs as JSON with sorted keys: equal for equal knobs."""
        return json.dumps(self.knobs, sort_keys=True, separators=(",", ":"))


_FAMILIES: dict[str, Family] = {}
_PLACES = {name: place for place, name in enumerate(ORDER)}


def register(family: Family) -> Family:
    """Add a row; a second row of the same name, or one without a place in `order.py`, is a programming error."""
    assert family.name not in _FAMILIES, f"kernel family {family.name} registered twice"
    assert family.name in _PLACES, f"kernel family {family.name} has no place in order.py"
    _FAMILIES[family.name] = family
    return family


def families() -> tuple[Family, ...]:
    """All rows, in the order of their registration."""
    return tuple(_FAMILIES.values())


def fitting(request: Request) -> list[Family]:
    """All families for this request, best untuned default first."""
    return sorted((f for f in families() if f.fits(request)), key=lambda f: _PLACES[f.name])


def longest_sum(request: Request) -> int:
    """The most terms that rows made for this kind of request hold; 0 without such a row, or where nothing adds up."""
    return max((f.max_terms(request) or 0 for f in families() if f.serves(request)), default=0)


def candidates(request: Request) -> Iterable[Kernel]:
    """Every (family, knobs) for this request, defaults first within each family."""
    for family in fitting(request):
        for knobs in family.knob_space(request):
            yield Kernel(request, family, knobs)


def default_kernel(request: Request) -> Kernel:
    """The untuned choice. Raises NoKernelError."""
    rows = fitting(request)
    if not rows:
        text = f"no kernel for {request.workload.key} at {request.precision} emitting {request.out_bits} bits"
        most = longest_sum(request)
        if most:
            terms = request.workload.terms
            raise NoKernelError(f"{text}: it adds up {terms} products, int32 holds {most}; take fewer bits or fp32")
        raise NoKernelError(f"{text} with ISA features {sorted(request.features & _named_features())}")
    return Kernel(request, rows[0], rows[0].knob_space(request)[0])


def named_kernel(request: Request, family: str, knobs: Knobs) -> Kernel:
    """A kernel by the family name and knobs that a plan or the database recorded. Raises NoKernelError."""
    row = _FAMILIES.get(family)
    if row is None or not row.fits(request):
        raise NoKernelError(f"kernel family {family!r} does not serve {request.workload.key} at {request.precision}")
    return Kernel(request, row, knobs)


def kernel_from_json(data: dict[str, Any]) -> Kernel:
    """Inverse of `Kernel.to_json`."""
    r = data["request"]
    workload, precision = Workload.from_json(r["workload"]), Precision.parse(r["precision"])
    request = Request(workload, precision, r["out_bits"], frozenset(r["features"]), r["threads"])
    return named_kernel(request, data["family"], data["knobs"])


@functools.lru_cache(maxsize=1024)
def _built(request: Request, family: str, knobs_text: str) -> PrimFunc:
    return _FAMILIES[family].build(request, json.loads(knobs_text))


def _named_features() -> set[str]:
    return {f for row in families() for f in row.isa_features}
