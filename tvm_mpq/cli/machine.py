"""Commands about machines: targets, boards, and what is missing here."""

from __future__ import annotations

import click

from tvm_mpq.cli.common import answer, board_options, json_option
from tvm_mpq.errors import InvalidValueError


@click.command()
@json_option
def targets(as_json: bool) -> None:
    """List the targets, which of them this CPU can run, and where their facts come from."""
    from tvm_mpq.report import tables
    from tvm_mpq.targets import describe_rows

    answer({"targets": describe_rows()}, as_json, tables.show_targets)


@click.command()
@board_options
@click.option("--threads", type=click.IntRange(1), default=1, help="Threads to ask for.")
@json_option
def devices(rpc: str | None, key: str | None, threads: int, as_json: bool) -> None:
    """Show which boards answer at an address, and how they are; without one, this machine."""
    from tvm_mpq.pipeline import list_devices
    from tvm_mpq.report.devices import show_devices

    answer(list_devices(rpc, key, threads=threads), as_json, show_devices)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is missing on this machine and how to mend it; exit 1 when something needed is."""
    from tvm_mpq.pipeline import diagnose
    from tvm_mpq.report import tables

    report = diagnose()
    answer(report, as_json, tables.show_doctor)
    if not report["ok"]:
        raise InvalidValueError("this machine lacks what the lines above marked `missing` name")
