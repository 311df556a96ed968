"""How the dynamic axes of a model's inputs become fixed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

import tvm
from tvm import relax

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError

OPTION = "--input-shape"
"""What the command line calls the shapes that `input_shapes` holds."""

Declared = Sequence[int | str | None] | None
"""An input's shape in the model: int for a fixed axis, its symbol or None for a free one; None for an unknown rank.
0 is an axis without elements, or what some exporters write for a free one."""

_PLAUSIBLE_SIZES = {4: 224, 5: 32}
_PLAUSIBLE_SIZE = 128
_IMAGE_RANK, _COLOURS = 4, 3


class Shapes:
    """The user's wishes: `batch` for a dynamic first axis, `given` shapes by input name. Collects notes.

    Raises
    ------
    InvalidValueError
        If `batch` or a given size is below 1.
    """

    def __init__(self, batch: int | None, given: Mapping[str, Sequence[int]] | None) -> None:
        if batch is not None and batch < 1:
            raise InvalidValueError(f"batch must be 1 or more (got {batch})")
        self.batch = batch
        self.notes: list[str] = []
        self._given = {str(name): tuple(int(n) for n in shape) for name, shape in (given or {}).items()}
        for name, shape in self._given.items():
            if any(n < 1 for n in shape):
                raise InvalidValueError(
                    f"sizes in input_shapes must be 1 or more (got {text(shape)} for input {name!r})"
                )

    def fix(self, inputs: Mapping[str, Declared]) -> dict[str, tuple[int, ...]]:
        """The static shape of each input of a model.

        A symbol has one size in all inputs, unless one input is given with several (some exporters call every free axis
        alike). It comes from the given shapes; a free first axis that they leave open is
        `batch`.

        Raises
        ------
        UnsupportedModelError
            For dynamic axes that neither `batch` nor given shapes fix, and for axes of no elements; the text holds the
            options that would.
        InvalidValueError
            If a given shape is for no input, contradicts the model's, `batch`, or another given one.
        """
        unknown = sorted(set(self._given) - set(inputs))
        if unknown:
            raise InvalidValueError(
                f"input_shapes names unknown input {unknown[0]!r}; the model's inputs are {', '.join(inputs)}"
            )
        for name, declared in inputs.items():
            if declared is not None and 0 in declared and name not in self._given:
                raise UnsupportedModelError(self._without_elements(name, declared))
        inputs = {n: None if d is None else [_named(axis) for axis in d] for n, d in inputs.items()}
        sizes: dict[str, int] = {}
        for name, given in self._given.items():
            self._take(name, inputs[name], given, sizes)
        fixed = dict(self._given)
        for name, declared in inputs.items():
            if name not in fixed and declared is not None and declared and self.batch is not None:
                self._fix_batch(name, declared[0], sizes)
        for name, declared in inputs.items():
            if name not in fixed and declared is not None:
                known = [self._size(axis, d, sizes) for axis, d in enumerate(declared)]
                if None not in known:
                    fixed[name] = tuple(n for n in known if n is not None)
        lacking = {name: inputs[name] for name in inputs if name not in fixed}
        if lacking:
            raise UnsupportedModelError(self._refusal(lacking, sizes))
        return {name: fixed[name] for name in inputs}

    def _take(self, name: str, declared: Declared, given: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Check a given shape against the model's, and note the sizes of symbols."""
        declared = [None] * len(given) if declared is None else declared
        agrees = len(declared) == len(given)
        if not agrees or any(isinstance(d, int) and d != n for d, n in zip(declared, given, strict=True)):
            raise InvalidValueError(
                f"input {name!r} has shape {_pattern(declared)} in the model (got {text(given)} in input_shapes)"
            )
        for axis, (d, n) in enumerate(zip(declared, given, strict=True)):
            alike = {m for e, m in zip(declared, given, strict=True) if e == d}
            if isinstance(d, str) and len(alike) == 1 and sizes.setdefault(d, n) != n:
                raise InvalidValueError(
                    f"axis {axis} ({d}) of input {name!r} has size {n} in input_shapes and {sizes[d]} in another "
                    "input; give equal sizes"
                )
        if declared and not isinstance(declared[0], int) and self.batch not in (None, 1, given[0]):
            raise InvalidValueError(
                f"batch is {self.batch} and input_shapes gives input {name!r} {text(given)}; give one batch"
            )
        if any(not isinstance(d, int) for d in declared):
            self.notes.append(f"sizes of input {name!r} fixed to {text(given)}")

    def _fix_batch(self, name: str, first: int | str | None, sizes: dict[str, int]) -> None:
        """A free first axis is the batch's, and with it all axes of its symbol."""
        assert self.batch is not None
        if isinstance(first, int):
            if self.batch not in (1, first):
                self.notes.append(f"batch of input {name!r} is {first} in the model; batch {self.batch} was not used")
            return
        size = self.batch if first is None else sizes.setdefault(first, self.batch)
        self.notes.append(f"dynamic batch axis of input {name!r} fixed to {size}")

    def _size(self, axis: int, declared: int | str | None, sizes: Mapping[str, int]) -> int | None:
        if declared is None:
            return self.batch if axis == 0 else None
        return declared if isinstance(declared, int) else sizes.get(declared)

    def _without_elements(self, name: str, declared: Sequence[int | str | None]) -> str:
        sizes = {name: [d if isinstance(d, int) and d else _plausible(i, declared) for i, d in enumerate(declared)]}
        return (
            f"input {name!r} is {'x'.join('?' if d is None else str(d) for d in declared)} in the model and so has no "
            f"elements; sizes must be 1 or more: where 0 stands for an open size, give it, such as "
            f"{' '.join(options(sizes))} (input_shapes={{{name!r}: {tuple(sizes[name])}}} in Python)"
        )

    def _refusal(self, lacking: Mapping[str, Declared], sizes: dict[str, int]) -> str:
        """What is open, and the options that close it, each with sizes like those of such inputs."""
        free, shapes = [], {}
        for name, declared in lacking.items():
            if declared is None:
                free.append(f"input {name!r} has no known rank")
                shapes[name] = (1, _COLOURS, *[_PLAUSIBLE_SIZES[_IMAGE_RANK]] * 2)
                continue
            known = [self._size(axis, d, sizes) for axis, d in enumerate(declared)]
            axes = [f"{axis} ({d})" if d else str(axis) for axis, d in enumerate(declared) if known[axis] is None]
            if not axes:
                continue  # an option for another input gives its sizes too
            free.append(f"input {name!r} has dynamic ax{'e' if len(axes) > 1 else 'i'}s {' and '.join(axes)}")
            shapes[name] = tuple(_plausible(axis, declared) if n is None else n for axis, n in enumerate(known))
            sizes.update((d, n) for d, n in zip(declared, shapes[name], strict=True) if isinstance(d, str))
        return (
            f"{', '.join(free)}: give the sizes it shall run at, such as {' '.join(options(shapes))} "
            f"(input_shapes={shapes} in Python)"
        )


def options(shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """What to type on the command line for these shapes.

    >>> list(options({"x": (1, 3, 224, 224)}))
    ['--input-shape x=1x3x224x224']
    """
    for name, shape in shapes.items():
        yield f"{OPTION} {shlex.quote(f'{name}={text(shape)}')}"


def text(shape: Sequence[int]) -> str:
    """`1x3x224x224`."""
    return "x".join(map(str, shape))


def _named(axis: int | str | None) -> int | str | None:
    """Without names that say nothing: `?`, `-1`, and a size of 0."""
    return (axis or None) if isinstance(axis, int) or (axis and axis[0].isalpha()) else None


def _pattern(declared: Sequence[int | str | None]) -> str:
    return "x".join(str(d) if isinstance(d, int) else "?" for d in declared) or "() (no axes)"


def _plausible(axis: int, declared: Sequence[int | str | None]) -> int:
    """Images of 224 by 224 in colour, sequences of 128; only an example."""
    if axis == 0:
        return 1
    spatial = declared[2:] if declared[-1] not in (1, _COLOURS) else declared[1:-1]
    if len(declared) == _IMAGE_RANK and axis == 1 and all(not isinstance(d, int) for d in spatial):
        return _COLOURS if spatial == declared[2:] else _PLAUSIBLE_SIZES[_IMAGE_RANK]
    return _PLAUSIBLE_SIZES.get(len(declared), _PLAUSIBLE_SIZE)


def fix_symbols(mod: tvm.IRModule, shapes: Shapes, input_names: list[str]) -> tvm.IRModule:
    """Give every symbolic size of `main`'s inputs its number.

    Raises
    ------
    UnsupportedModelError
        If an input is no tensor of a shape, or as `Shapes.fix`.
    InvalidValueError
        As `Shapes.fix`, and when a given size does not follow from the others as the module says it does.
    """
    declared: dict[str, list[tvm.tirx.PrimExpr]] = {}
    for param, name in zip(mod["main"].params, input_names, strict=True):
        ty = param.ty
        if not isinstance(ty, relax.TensorType):
            raise UnsupportedModelError(f"input {name!r} must be a tensor (got {ty})")
        if not isinstance(ty.shape, relax.ShapeExpr):
            raise UnsupportedModelError(f"input {name!r} has no shape in the module; declare one")
        declared[name] = list(ty.shape)
    fixed = shapes.fix({name: [_declared(d) for d in dims] for name, dims in declared.items()})
    sizes = {
        dim: size
        for name, dims in declared.items()
        for dim, size in zip(dims, fixed[name], strict=True)
        if isinstance(dim, tvm.tirx.Var)
    }
    mod = relax.transform.BindSymbolicVars(sizes, "main")(mod) if sizes else mod
    for param, name in zip(mod["main"].params, input_names, strict=True):
        bound = [_declared(d) for d in param.ty.shape]
        if bound != list(fixed[name]):  # an axis that is said to be twice another one
            raise InvalidValueError(
                f"input {name!r} is {'x'.join(str(_declared(d)) for d in declared[name])} in the model, which comes to "
                f"{'x'.join(map(str, bound))} (got {text(fixed[name])})"
            )
    return mod


def _declared(dim: tvm.tirx.PrimExpr) -> int | str:
    return int(dim) if isinstance(dim, tvm.tirx.IntImm) else str(dim)
