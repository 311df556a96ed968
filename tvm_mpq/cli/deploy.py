"""Commands that take a built folder to where it will run."""

from __future__ import annotations

from pathlib import Path

import click

from tvm_mpq.cli.common import answer, data_option, json_option


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
