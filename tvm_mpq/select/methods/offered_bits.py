"""Integer precisions that one operator is offered, by bits: what actions mean, and what has fewer bits."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.schema import Precision
from tvm_mpq.select.problem import Choice, is_integer


class OfferedBits:
    """Choices of one operator by (weight bits, activation bits). Floats count only where there is nothing else."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        every = {_bits(choice): i for i, choice in enumerate(choices)}
        self._index = {bits: i for bits, i in every.items() if is_integer(choices[i].in_bits)} or every
        self._bits = {index: bits for bits, index in self._index.items()}

    def __len__(self) -> int:
        return len(self._index)

    @property
    def most(self) -> int:
        """Index of the choice of the most weight bits, and of those the one of the most activation bits."""
        return self._index[max(self._index)]

    @property
    def fewest(self) -> int:
        return self._index[min(self._index)]

    @property
    def weights(self) -> tuple[int, ...]:
        """Weight bits that are offered, fewest first."""
        return tuple(sorted({w for w, _ in self._index}))

    def activations(self, weight_bits: int) -> tuple[int, ...]:
        """Activation bits that are offered beside these weight bits, fewest first."""
        return tuple(sorted(a for w, a in self._index if w == weight_bits))

    def index(self, weight_bits: int, activation_bits: int) -> int:
        return self._index[weight_bits, activation_bits]

    def fewer(self, index: int) -> list[int]:
        """Every choice with no more bits of either kind than this one has."""
        w, a = self._bits[index]
        return [i for (w2, a2), i in self._index.items() if w2 <= w and a2 <= a and i != index]

    def fewer_activations(self, index: int) -> int | None:
        """The next fewer activation bits beside the same weight bits; None below the last."""
        w, a = self._bits[index]
        below = [bits for bits in self.activations(w) if bits < a]
        return self._index[w, below[-1]] if below else None

    def fewer_weights(self, index: int) -> int | None:
        """The next fewer weight bits, beside the most activation bits there that are no more; None below the last."""
        w, a = self._bits[index]
        below = [bits for bits in self._index if bits[0] < w and bits[1] <= a]
        return self._index[max(below)] if below else None


def _bits(choice: Choice) -> tuple[int, int]:
    """Of weights and activations; of a label without weights those of the activations for both."""
    try:
        precision = Precision.parse(choice.label)
    except InvalidValueError:
        return choice.in_bits, choice.in_bits
    return precision.weight_bits, precision.activation_bits


def meant(action: float, offered: Sequence[int]) -> int:
    """Bits that an action in [0, 1] means: each of `offered` has an equal part of it, as in the paper.

    >>> [meant(a, range(2, 9)) for a in (0.0, 0.14, 0.15, 0.5, 1.0)]
    [2, 2, 3, 5, 8]
    """
    return offered[max(0, min(len(offered) - 1, round(action * len(offered) - 0.5)))]
