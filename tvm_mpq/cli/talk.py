"""How much a command says beside its answer: `--quiet`, `--verbose`, and what both mean for the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import click

_LOGGER = logging.getLogger("tvm_mpq")


@dataclass
class Invocation:
    """A call of the program.

    command: as it was typed, for reports that say how to repeat them. begun: its options are sound, and the work is on:
    what is wrong from then on is no wrong usage.
    """

    command: str = ""
    quiet: bool = False
    verbose: bool = False
    begun: bool = False


def invocation() -> Invocation:
    """The one under way."""
    return click.get_current_context().find_root().ensure_object(Invocation)


def add_options(command: click.Command) -> None:
    """Give a command, or all of a group, `--quiet` and `--verbose`."""
    if isinstance(command, click.Group):
        for part in command.commands.values():
            add_options(part)
        return
    for flags, text in (
        (("-q", "--quiet"), "Only the answer, warnings and errors: no progress, no messages."),
        (("-v", "--verbose"), "Also what is done when: stages with their times, kernels, the solver, on stderr."),
    ):
        command.params.append(
            click.Option(flags, is_flag=True, expose_value=False, callback=_heard, help=text, show_default=False)
        )


def _heard(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value:
        return
    call = invocation()
    setattr(call, str(parameter.name), True)
    if call.quiet and call.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.ERROR if call.quiet else logging.DEBUG)

    def undo() -> None:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(before)

    context.find_root().call_on_close(undo)


def tell(text: str) -> None:
    """A line on stderr, unless nobody wants to hear it."""
    if not invocation().quiet:
        click.echo(text, err=True)
