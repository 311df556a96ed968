"""What is in the latency database, on standard output."""

from __future__ import annotations

from rich.console import Console

from tvm_mpq.report import text
from tvm_mpq.report.console import print_facts, print_table, standard_output
from tvm_mpq.report.inventory import DatabaseReport, Record, RecordInFull
from tvm_mpq.report.text import NOTHING, is_number, number, percent

DROPPED = ("device", "measured at", "kernel", "source", "emits", "IQR")
"""Columns without which a record is still found, the least needed first."""


def show_db(report: DatabaseReport) -> None:
    """Records as a table, a single one in full, anything else as `name: value`."""
    console = standard_output()
    if "records" in report:
        _records(console, report["records"])
    elif "record" in report:
        print_facts(console, _in_full(report["record"]))
    else:
        print_facts(console, [(name, _plain(value)) for name, value in report.items()])


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{n} {what}" for what, n in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def _records(console: Console, records: list[Record]) -> None:
    headers = ("id", "workload", "precision", "emits", "kernel", "us", "IQR", "source", "measured at", "device")
    rows = []
    for r in records:
        key = r["key"]
        rows.append(
            (
                r["id"],
                text.workload(key["workload"]),
                key["precision"],
                str(key["out_bits"]),
                f"{key['family']} {key['knobs']}",
                number(r["median_us"]) if r["failure"] is None else f"failed: {r['failure']}",
                number(r["iqr_us"]) if r["failure"] is None else NOTHING,
                r["provenance"],
                r["measured_at"],
                r["device"],
            )
        )
    if rows:
        print_table(console, headers, rows, right=("emits", "IQR"), drop=DROPPED)
    console.print(f"{len(rows)} records")


def _in_full(record: RecordInFull) -> list[tuple[str, str]]:
    key, device = record["key"], record["device_identity"]
    facts = [
        ("id", record["id"]),
        ("workload", key["workload"]),
        ("precision", key["precision"]),
        ("emits", "float32" if key["out_bits"] == 32 else "uint8"),
        ("kernel", key["family"]),
        ("knobs", key["knobs"]),
        ("target", key["target"]),
    ]
    if device is None:
        facts.append(("device", record["device"]))
    else:
        facts += [
            ("CPU", f"{device['cpu_model']} ({device['core_type']})"),
            ("features", " ".join(device["isa_features"]) or "none"),
            ("cores", f"{device['cores']}, threads {device['threads']}"),
        ]
    if record["failure"] is None:
        facts += [("median", _microseconds(record["median_us"])), ("IQR", _microseconds(record["iqr_us"]))]
    else:
        facts.append(("failure", record["failure"]))
    if record["energy_mj"] is not None:
        facts.append(("energy", number(record["energy_mj"], " mJ")))
    error = record["stated_error"]
    return [
        *facts,
        ("repeats", str(record["repeats"])),
        ("source", record["provenance"] + (f", stated error {percent(error)}" if is_number(error) else "")),
        ("measured at", record["measured_at"]),
        ("TVM", record["tvm_version"] or NOTHING),
        ("kernel version", record["kernel_version"]),
    ]


def _microseconds(value: object) -> str:
    """All digits that mean something."""
    return f"{value:.6g} us" if is_number(value) else NOTHING
