"""The command line: text in, text out. Every command parses, calls one pipeline function and prints.

Data go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 one line `error: ...`, 2 wrong
usage (a wrong value of an option is one line too), 128 and the
signal's number when asked to end (130: Ctrl-C); `check` has two more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from tvm_mpq.cli import alone, db, deploy, guard, machine, methods, model, talk
from tvm_mpq.errors import InvalidValueError, MPQError

PROGRAM = "tvm-mpq"
"""However it was started: usage, reports and shell completion name it so."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="tvm-mpq")
def cli() -> None:
    """Mixed-precision networks for TVM: measured on your CPU, chosen by an exact solver, built into one model.so."""


for _command in (
    *(model.optimize, model.tune, model.sensitivity, methods.search, model.build, model.finetune),
    *(methods.compare, model.inspect, model.run, deploy.export, deploy.check),
    *(model.bench, model.report, model.demo, machine.targets, machine.devices, machine.doctor, db.db),
):
    cli.add_command(_command)
    talk.add_options(_command)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line; a traceback is a bug of ours.

    args: what follows the program's name; None = as it was called.
    """
    if args is not None:
        _with_clean_output(args)
        return
    alone.import_tvm_alone()
    code = guard.guarded(lambda: _with_clean_output(None))
    if code is not None:
        sys.exit(code)


def _with_clean_output(args: Sequence[str] | None) -> None:
    with _only_ours_on_stdout():
        _run(args)


@contextlib.contextmanager
def _only_ours_on_stdout() -> Iterator[None]:
    """What libraries print past Python goes to stderr: on stdout stands the answer alone."""
    stream = sys.stdout
    replaced = stream is not sys.__stdout__  # as tests do
    if replaced or None in (stream, sys.stderr) or stream.fileno() != 1:
        yield
        return
    stream.flush()
    with os.fdopen(os.dup(1), "w", encoding=stream.encoding, buffering=1 if stream.isatty() else -1) as ours:
        os.dup2(2, 1)
        sys.stdout = ours
        try:
            yield
        finally:
            sys.stdout = stream
            ours.flush()
            os.dup2(ours.fileno(), 1)


def _run(args: Sequence[str] | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name outside the terminal's encoding is no reason to stop
    call = talk.Invocation(shlex.join([PROGRAM, *(sys.argv[1:] if args is None else args)]))
    try:
        cli(args, prog_name=PROGRAM, standalone_mode=False, obj=call)
    except (click.exceptions.Abort, KeyboardInterrupt):
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo("interrupted; everything measured so far is kept: run the same command again to go on", err=True)
        sys.exit(128 + (guard.asked.number or signal.SIGINT))
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except MPQError as e:
        if call.verbose:
            traceback.print_exc()
        _fail(str(e), 2 if isinstance(e, InvalidValueError) and not call.begun else 1)
    except ImportError as e:
        if (e.name or "").split(".")[0] not in ("tvm", "tvm_ffi"):
            raise
        _fail(f"TVM cannot be imported ({e}); tvm-mpq doctor says more")
    except OSError as e:
        if e.errno not in _DISK_ERRORS:
            raise
        _fail(f"cannot write {e.filename or 'output'}: {e.strerror}")
    except MemoryError:
        _fail("memory ran out; close other programs, or give a smaller batch, input or data file")


LONGEST = 600
"""Characters of a message; names from damaged files can be of any length."""


def one_line(text: str) -> str:
    """Without line breaks; of a long text beginning and end."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def _fail(text: str, code: int = 1) -> None:
    click.echo(f"error: {one_line(text)}", err=True)
    sys.exit(code)
