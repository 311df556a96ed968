"""What a kernel is called with: shapes and dtypes of its arguments, known without building it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit.code import Parameter


@dataclass(frozen=True)
class Parameters:
    """A kernel's parameters in their order: activations (data, then residual or second operand), constants as
    `Family.constants` gives them, and the output."""

    activations: tuple[Parameter, ...]
    constants: tuple[Parameter, ...]
    output: Parameter

    def all(self) -> list[Parameter]:
        """In the order of the kernel's arguments."""
        return [*self.activations, *self.constants, self.output]
