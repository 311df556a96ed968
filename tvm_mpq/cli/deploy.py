"""Commands for a built folder on its way to where it will run, and after."""

from __future__ import annotations

from pathlib import Path

import click

from tvm_mpq.cli.common import answer, board_options, data_option, json_option


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@data_option("--data", "data", "An .npz whose first sample becomes the example.")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    help="Folder with TVM's two wheels for another architecture; default: the packages of this Python.",
)
@json_option
def export(folder: Path, out: Path, data: Path | None, runtime: Path | None, as_json: bool) -> None:
    """Write a built FOLDER with TVM's runtime, headers, a C++ example and a README into OUT: it runs without Python."""
    from tvm_mpq.pipeline import export_folder
    from tvm_mpq.report.exported import show_export

    answer(export_folder(folder, out, data=data, runtime=runtime), as_json, show_export)


GOT_WORSE, NOT_SETTLED = 3, 4
"""Exit codes of `check`; 1 = it could not be checked, 2 = wrong usage."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--latency", type=float, metavar="RATIO", help="Largest ratio of its time now to then, such as 1.05.")
@click.option("--accuracy", is_flag=True, help="Also whether it answers as well as then, image by image.")
@click.option("--drop", type=float, default=0.0, help="With --accuracy: points that may be lost.")
@data_option("--data", "data", "Evaluation .npz; default: the file that the report names.")
@click.option("--against", type=click.Path(path_type=Path), help="Another built folder instead of FOLDER's report.")
@click.option("--rounds", type=click.IntRange(6), default=45, help="In which it is timed: more give a closer interval.")
@board_options
@json_option
def check(
    folder: Path,
    latency: float | None,
    accuracy: bool,
    drop: float,
    data: Path | None,
    against: Path | None,
    rounds: int,
    rpc: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Fail when a built FOLDER got slower, or less accurate, than its report says.

    Exit codes: 0 it holds, 3 it got worse, 4 the times do not settle it, 1 it could not be checked, 2 wrong usage.
    """
    from tvm_mpq.pipeline import Wanted, check_folder
    from tvm_mpq.report.checked import UNSETTLED, WORSE, show_check

    if latency is None and not accuracy:
        raise click.UsageError("nothing to check: give --latency RATIO, such as 1.05, --accuracy, or both")
    wanted = Wanted(latency, drop if accuracy else None, rounds)
    report = check_folder(folder, wanted, data=data, against=against, rpc=rpc, key=key)
    answer(report, as_json, show_check)
    code = {WORSE: GOT_WORSE, UNSETTLED: NOT_SETTLED}.get(report["status"], 0)
    if code:
        raise SystemExit(code)
