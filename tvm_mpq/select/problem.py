"""The tables that selection decides on: operators with their choices, tensors with their formats and conversions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import FLOAT_BITS, Workload

FORMATS = (*range(1, 9), FLOAT_BITS)
"""How a tensor may be stored: 1..8 = unsigned integers of that many bits, 32 = float32."""

INTEGER_CLASS = 8
"""Key of `Choice.latency_us` for emitting an integer tensor; its bits do not change the kernel's time."""

CLASSES = (FLOAT_BITS, INTEGER_CLASS)

QUANTITIES = ("loss", "size", "energy", "latency")
"""What can be limited or minimised."""


def is_integer(bits: int) -> bool:
    """Whether a storage format is an integer format."""
    return bits != FLOAT_BITS


def emitted_class(bits: int) -> int:
    """The key of `Choice.latency_us` for an output stored at `bits`."""
    return INTEGER_CLASS if is_integer(bits) else FLOAT_BITS


@dataclass(frozen=True)
class Choice:
    """One way to run an operator.

    label: precision text (`w4a8`, `fp32`; `a8` for weightless operators). in_bits: storage format it needs on its
    inputs, 32 or 1..8. latency_us: microseconds per emitted class, 32 = float32, 8 = integers; an absent key cannot be
    emitted.
    loss: accuracy lost, in any one unit for the whole problem; may be negative. energy_mj: millijoule, None = unknown.
    """

    label: str
    in_bits: int
    latency_us: Mapping[int, float]
    size_bytes: int = 0
    loss: float = 0.0
    energy_mj: float | None = None


@dataclass(frozen=True)
class Operator:
    """A node that reads `inputs` and writes `output`.

    exact_inputs, one flag an input: True = an integer choice reads exactly its `in_bits` there; False = any integer
    format will do (residuals and weightless operators, whose inputs bring their own scale). Float choices always read
    float32.
    workload: what it computes, for methods that look at shapes; None = not known.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    choices: tuple[Choice, ...]
    exact_inputs: tuple[bool, ...]
    workload: Workload | None = None

    def choice(self, label: str) -> Choice:
        """Raises InvalidValueError for an unknown label."""
        for choice in self.choices:
            if choice.label == label:
                return choice
        known = ", ".join(c.label for c in self.choices)
        raise InvalidValueError(f"operator {self.name!r} has the choices {known} (got {label!r})")


@dataclass(frozen=True)
class Tensor:
    """An activation. Its producer emits one format; consumers of another format need a conversion.

    formats: what it may be stored in. convert_us: microseconds per (from, to), paid once however many consumers read
    the copy; an absent pair is impossible. fixed: the format it is produced in (network inputs, float operators).
    required: a format in which it must be available (network outputs, float consumers). tie: an input of the producer
    with which it shares its integer format (max pooling, copies and reshapes keep their input's range). copies_only:
    formats that exist as conversions and are never emitted: too few bits for readers whose loss is not in the tables.
    """

    name: str
    formats: tuple[int, ...]
    convert_us: Mapping[tuple[int, int], float] = field(default_factory=dict)
    fixed: int | None = None
    required: int | None = None
    tie: str | None = None
    copies_only: tuple[int, ...] = ()

    @property
    def integer_formats(self) -> tuple[int, ...]:
        return tuple(f for f in self.formats if is_integer(f))


@dataclass(frozen=True)
class Limits:
    """Upper limits of a whole solution; None = not limited."""

    latency_us: float | None = None
    size_bytes: float | None = None
    loss: float | None = None
    energy_mj: float | None = None

    def __post_init__(self) -> None:
        for quantity, value in self.active():
            if not math.isfinite(value):
                raise InvalidValueError(f"limit of {quantity} must be finite (got {value:g}); None means not limited")

    def active(self) -> Iterator[tuple[str, float]]:
        """(quantity, limit) of every limit that is set."""
        values = (self.loss, self.size_bytes, self.energy_mj, self.latency_us)
        return ((q, float(v)) for q, v in zip(QUANTITIES, values, strict=True) if v is not None)

    def only(self, quantities: Iterable[str]) -> Limits:
        """These limits alone."""
        kept = dict(self.active())
        return Limits(**{LIMIT_FIELDS[q]: kept[q] for q in quantities})

    def tightened(self, quantity: str, value: float) -> Limits:
        """The same with `quantity` limited to `value` at most."""
        old = dict(self.active()).get(quantity, math.inf)
        return replace(self, **{LIMIT_FIELDS[quantity]: min(old, value)})


LIMIT_FIELDS = {"loss": "loss", "size": "size_bytes", "energy": "energy_mj", "latency": "latency_us"}


@dataclass(frozen=True)
class Problem:
    """Everything selection knows. Refuses tables that do not fit together.

    fixed_us: constant time of what is not chosen here. call_us: overhead added to every operator and conversion call.

    Raises
    ------
    InvalidValueError
        On NaN or infinity, negative times or sizes, empty choices, unknown names and duplicates; the text names the
        operator or tensor.
    """

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    fixed_us: float = 0.0
    call_us: float = 0.0

    def __post_init__(self) -> None:
        _check_number(self.fixed_us, "fixed_us", minimum=0)
        _check_number(self.call_us, "call_us", minimum=0)
        _check_unique((o.name for o in self.operators), "operator")
        _check_unique((t.name for t in self.tensors), "tensor")
        _check_unique((o.output for o in self.operators), "producer of tensor")
        for tensor in self.tensors:
            _check_tensor(tensor, self.producers.get(tensor.name))
        for operator in self.operators:
            _check_operator(operator, self.tensor_by_name)

    @cached_property
    def operator_by_name(self) -> dict[str, Operator]:
        return {o.name: o for o in self.operators}

    @cached_property
    def tensor_by_name(self) -> dict[str, Tensor]:
        return {t.name: t for t in self.tensors}

    @cached_property
    def producers(self) -> dict[str, Operator]:
        """Tensor name -> the operator that writes it; network inputs have none."""
        return {o.output: o for o in self.operators}

    @cached_property
    def consumers(self) -> dict[str, tuple[Operator, ...]]:
        """Tensor name -> the operators that read it, each once, in the network's order."""
        found: dict[str, list[Operator]] = {t.name: [] for t in self.tensors}
        for operator in self.operators:
            for name in dict.fromkeys(operator.inputs):
                found[name].append(operator)
        return {name: tuple(users) for name, users in found.items()}

    def restricted(self, labels: Mapping[str, str]) -> Problem:
        """The same, with one choice left of every operator named. Raises InvalidValueError for unknown names."""
        kept = {name: self.operator(name).choice(label) for name, label in labels.items()}
        operators = (replace(o, choices=(kept[o.name],)) if o.name in kept else o for o in self.operators)
        return replace(self, operators=tuple(operators))

    def require_known(self, quantity: str) -> None:
        """Raises InvalidValueError where a choice has no number for it: only energies may be unknown."""
        if quantity != "energy":
            return
        for operator in self.operators:
            for choice in operator.choices:
                if choice.energy_mj is None:
                    raise InvalidValueError(
                        f"operator {operator.name!r}: energy of choice {choice.label!r} is unknown; "
                        "give it an energy or leave the energy budget out"
                    )

    def least(self, quantity: str) -> float:
        """What no assignment goes below: the cheapest choice of every operator, boundaries left out."""
        self.require_known(quantity)

        def value(choice: Choice) -> float:
            if quantity == "latency":
                return min(choice.latency_us.values()) + self.call_us
            values = {"size": choice.size_bytes, "loss": choice.loss, "energy": choice.energy_mj}
            return float(values[quantity] or 0.0)

        fixed = self.fixed_us if quantity == "latency" else 0.0
        return math.fsum([fixed, *(min(map(value, o.choices)) for o in self.operators)])

    def operator(self, name: str) -> Operator:
        """Raises InvalidValueError for an unknown name."""
        if name not in self.operator_by_name:
            raise InvalidValueError(f"no operator {name!r}; known are {_listed(self.operator_by_name)}")
        return self.operator_by_name[name]


def _check_number(value: float, what: str, minimum: float = -math.inf) -> None:
    if not math.isfinite(value):
        raise InvalidValueError(f"{what} must be finite (got {value})")
    if value < minimum:
        raise InvalidValueError(f"{what} must be {minimum:g} or more (got {value:g})")


def _check_unique(names: Iterable[str], what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidValueError(f"{what} {name!r} must be unique (got it {count} times)")


def _check_tensor(tensor: Tensor, producer: Operator | None) -> None:
    what = f"tensor {tensor.name!r}"
    if not tensor.formats or len(set(tensor.formats)) != len(tensor.formats) or not set(tensor.formats) <= set(FORMATS):
        raise InvalidValueError(f"{what}: formats must be distinct, of 1..8 and 32 (got {tensor.formats})")
    for name, value in (("fixed", tensor.fixed), ("required", tensor.required)):
        if value is not None and value not in tensor.formats:
            raise InvalidValueError(f"{what}: {name} must be one of its formats {tensor.formats} (got {value})")
    if not set(tensor.formats) > set(tensor.copies_only):
        raise InvalidValueError(f"{what}: copies_only must leave one of {tensor.formats} (got {tensor.copies_only})")
    for (source, to), cost in tensor.convert_us.items():
        if source == to or source not in tensor.formats or to not in tensor.formats:
            raise InvalidValueError(f"{what}: conversions join two of its formats {tensor.formats} (got {source, to})")
        _check_number(cost, f"{what}: conversion {source} -> {to}", minimum=0)
    if producer is None and tensor.fixed is None:
        raise InvalidValueError(f"{what}: no operator writes it, so its format must be fixed (got None)")
    if tensor.tie is not None and (producer is None or tensor.tie not in producer.inputs):
        allowed = producer.inputs if producer else ()
        raise InvalidValueError(f"{what}: tie must be an input of its producer, {allowed} (got {tensor.tie!r})")


def _check_operator(operator: Operator, tensors: Mapping[str, Tensor]) -> None:
    what = f"operator {operator.name!r}"
    for name in (*operator.inputs, operator.output):
        if name not in tensors:
            raise InvalidValueError(f"{what}: no tensor {name!r}; known are {_listed(tensors)}")
    if len(operator.exact_inputs) != len(operator.inputs):
        raise InvalidValueError(
            f"{what}: exact_inputs needs one flag for each of {len(operator.inputs)} inputs "
            f"(got {len(operator.exact_inputs)})"
        )
    if not operator.choices:
        raise InvalidValueError(f"{what}: at least one choice is needed (got none)")
    _check_unique((c.label for c in operator.choices), f"{what}: choice")
    for choice in operator.choices:
        _check_choice(choice, f"{what}, choice {choice.label!r}")


def _check_choice(choice: Choice, what: str) -> None:
    if choice.in_bits not in FORMATS:
        raise InvalidValueError(f"{what}: in_bits must be 1..8 or 32 (got {choice.in_bits})")
    if not choice.latency_us or not set(choice.latency_us) <= set(CLASSES):
        raise InvalidValueError(f"{what}: latency_us needs keys of {CLASSES} (got {sorted(choice.latency_us)})")
    for emitted, latency in choice.latency_us.items():
        _check_number(latency, f"{what}: latency_us[{emitted}]", minimum=0)
    _check_number(choice.size_bytes, f"{what}: size_bytes", minimum=0)
    _check_number(choice.loss, f"{what}: loss")
    if choice.energy_mj is not None:
        _check_number(choice.energy_mj, f"{what}: energy_mj", minimum=0)


def _listed(names: Iterable[str], shown: int = 8) -> str:
    every = list(names)
    rest = f" and {len(every) - shown} more" if len(every) > shown else ""
    return ", ".join(every[:shown]) + rest
