"""Devices as a table on standard output."""

from __future__ import annotations

from tvm_mpq.report.console import print_table, standard_output
from tvm_mpq.report.inventory import DevicesReport
from tvm_mpq.report.text import NOTHING, number, one_line

NUMBERS = ("cores", "load", "temperature", "round trip")
DROPPED = ("governor", "round trip", "temperature", "CPU", "cores")


def show_devices(report: DevicesReport) -> None:
    """One row per device, then who did not answer."""
    console = standard_output()
    headers = ("address", "CPU", "cores", "target", "load", "governor", "temperature", "round trip", "remarks")
    rows = []
    for device in report["devices"]:
        health = device["health"]
        remarks = [*device["warnings"], *(["emulated: its times mean nothing"] if device["emulated"] else [])]
        rows.append(
            (
                device["address"],
                f"{device['cpu_model']} ({device['architecture']}, {device['core_type']})",
                str(device["cores"]),
                device["targets"][0] if device["targets"] else NOTHING,
                number(health["load"]),
                health["governor"] or NOTHING,
                number(health["temperature_c"], " C"),
                number(device["round_trip_ms"], " ms"),
                "; ".join(remarks) or NOTHING,
            )
        )
    print_table(console, headers, rows, right=NUMBERS, drop=DROPPED)
    tracker = report["tracker"]
    if tracker:
        console.print(f"tracker: {tracker['registered']} registered under {tracker['key']!r}, {tracker['free']} free")
    for row in report["silent"]:
        console.print(one_line(f"no answer: {row['reason']}"))
