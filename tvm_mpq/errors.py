"""Every error this project raises on purpose.

One base class, `MPQError`; each error also derives from the built-in it refines, so that callers who know nothing of
tvm-mpq can still catch `ValueError` or `FileNotFoundError`. The text is one line: what, what is allowed, what was
given, and how to mend it where the user can.
"""


class MPQError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line `error: ...` and exits with 1."""


class InvalidValueError(MPQError, ValueError):
    """An argument lies outside what is allowed."""


class UnknownKeywordError(MPQError, TypeError):
    """A function was called with a keyword that it does not have; the text names the nearest one."""


class UnsupportedBitsError(InvalidValueError):
    """A bit-width that no definition in `numerics` covers."""


class UnsupportedModelError(MPQError, ValueError):
    """The model holds something that cannot be imported or compiled (dynamic shape, unknown operator, corrupt file)."""


class MissingFileError(MPQError, FileNotFoundError):
    """A file that the user named is not there."""


class FileFormatError(MPQError, ValueError):
    """A file exists and is not what it should be (database, plan, data archive)."""


class OutputError(MPQError, OSError):
    """A result cannot be written where the user asked."""


class DataError(MPQError, ValueError):
    """Calibration or evaluation data do not fit the model, or hold NaN or infinity."""


class UnknownTargetError(MPQError, KeyError):
    """No target row has this name."""

    def __str__(self) -> str:  # KeyError would print the repr, quotes and all
        return str(self.args[0]) if self.args else ""


class TargetMismatchError(MPQError, RuntimeError):
    """The device at hand cannot run code for the target."""


class NoKernelError(MPQError, LookupError):
    """No kernel family covers this workload at this precision on this target."""


class InfeasibleError(MPQError, ValueError):
    """No plan satisfies the budget; the text says which budget binds and what the least feasible value is."""


class MeasurementError(MPQError, RuntimeError):
    """A kernel could not be measured, or its times are too noisy to be stored."""


class UnsteadyError(MeasurementError):
    """Times of a network scatter or drift too much to be stated; the text says how.

    load_ms, first_run_us: of the same network, which happen once and scatter with nothing; None = not known.
    """

    def __init__(self, text: str, *, load_ms: float | None = None, first_run_us: float | None = None) -> None:
        super().__init__(text)
        self.load_ms, self.first_run_us = load_ms, first_run_us


class DeviceLostError(MeasurementError, ConnectionError):
    """The device (local worker or remote board) stopped answering."""


class VerificationError(MPQError, ArithmeticError):
    """A kernel's integers differ from the definition in `numerics`, or an import from its source's evaluator."""


class NoReferenceError(MPQError, RuntimeError):
    """No independent evaluator runs this model here, or not in time; the text says why, for a report."""


class MissingDependencyError(MPQError, ImportError):
    """An optional package is needed and not installed; the text names the extra that brings it."""
