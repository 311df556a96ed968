"""The frame of a packed linear layer: activations and their sums, tiles of output channels, threads, epilogue."""

from __future__ import annotations

from tvm_mpq.kernels.conv.epilogue import Cell, Epilogue, activation_params, range_params
from tvm_mpq.kernels.families.accept import workload_of
from tvm_mpq.kernels.frames.geometry import useful_threads
from tvm_mpq.kernels.packed_linear.machine import Machine
from tvm_mpq.kernels.packed_linear.shape import LinearShape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Script, Task, ramp
from tvm_mpq.schema import padded_channels


def linear_shape(request: Request, knobs: Knobs, machine: Machine) -> LinearShape:
    """The shape of `request` with the knobs {"parts", "depth"}."""
    stored = Epilogue(request, machine.lanes).stored_channels
    limits = knobs["parts"], knobs["depth"]
    return LinearShape.of(workload_of(request), machine.coding, machine.lanes, stored, *limits)


def build_packed_linear(request: Request, knobs: Knobs, machine: Machine) -> Script:
    """The layer of `request` with knobs {"parts", "depth", "ahead"}."""
    return _PackedLinear(request, knobs, machine).build()


class _PackedLinear:
    def __init__(self, request: Request, knobs: Knobs, machine: Machine) -> None:
        self.request, self.machine = request, machine
        self.s = linear_shape(request, knobs, machine)
        self.ahead: int = knobs["ahead"]
        self.threads = useful_threads(workload_of(request), request.threads)
        self.epilogue = Epilogue(request, machine.lanes)
        self.code = Code()

    def build(self) -> Script:
        s, code = self.s, self.code
        stored = padded_channels(s.channels)
        code.line(f'X = T.decl_buffer(({s.rows * stored},), "uint8", data=x.data)')
        code.line(f'W = T.decl_buffer(({s.tiles * s.steps * s.step_bytes},), "uint8", data=weight.data)')
        code.line(f'XS = T.alloc_buffer(({s.rows * s.row_bytes},), "uint8")')
        self.machine.header(code)
        self.epilogue.header(code)
        self._activations(stored)
        self.machine.prepare(code, s)
        with Task(code, self.threads) as task:
            self.epilogue.locals(code)
            with code.block(f"for tile in range({', '.join(task.part(s.tiles))}):"):
                self._tile()
        weight = ("weight", s.weight_shape, "uint8")
        return code.script([*activation_params(self.request), weight, *range_params(self.request)])

    def _activations(self, stored: int) -> None:
        """Activations less the sign into XS, zeros behind them, and coding offset * their sum into `offset`.

        Plain loops, which LLVM turns into vectors. The zeros meet fields of 0: they need a value, whichever.
        """
        s, code = self.s, self.code
        code.line(f'offset = T.alloc_buffer(({s.rows},), "int32")')
        with code.block(f"for row in range({s.rows}):"):
            code.line("offset[row] = 0")
            with code.block(f"for i in range({s.channels}):"):
                code.let("s", f"T.bitwise_xor(X[row * {stored} + i], T.uint8({self.machine.sign}))")
                code.line(f"XS[row * {s.row_bytes} + i] = s")
                value = 'T.reinterpret("int8", s)' if self.machine.sign else "s"
                term = f'{s.coding.offset} * T.Cast("int32", {value})'
                code.line(f"offset[row] = offset[row] + {term}")
            with code.block(f"for i in range({s.channels}, {s.row_bytes}):"):
                code.line(f"XS[row * {s.row_bytes} + i] = T.uint8(0)")

    def _tile(self) -> None:
        s, code, n = self.s, self.code, self.s.lanes
        overlaps = s.all_parts % s.parts
        code.let("part", f"T.min(tile * {s.parts}, {s.all_parts - s.parts})" if overlaps else f"tile * {s.parts}")
        code.let("w_tile", f"tile * {s.steps * s.step_bytes}")
        code.let("channel", f"part * {n}")
        sums = self.machine.sums(code, s, self.ahead)
        for i in range(s.parts):
            code.let(f"b{i}", f"bias[{ramp(f'channel + {i * n}', n)}]")
            code.let(f"m{i}", f"multiplier[{ramp(f'channel + {i * n}', n)}]")
        cells = []
        for r, row in enumerate(sums):
            code.let(f"o{r}", f"T.Broadcast(offset[{r}], {n})")
            for i, total in enumerate(row):
                if s.coding.step != 1:
                    total = f"({total}) * T.Broadcast({s.coding.step}, {n})"
                acc = f"({total} + (b{i} - o{r}))"
                cells.append(Cell(acc, f"m{i}", str(r), "channel", i == s.parts - 1, i * n))
        self.epilogue.finish(code, cells)
