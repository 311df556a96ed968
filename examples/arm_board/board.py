"""An emulated 64-bit ARM board: a TVM RPC server under qemu, for anyone with Debian's packages.

    python examples/arm_board/board.py                                        # a board at 127.0.0.1:9190
    python examples/arm_board/board.py --tracker 127.0.0.1:9290 --key pi4     # one that registers with a tracker

Everything is fetched into a cache folder, without root: Python for ARM as Debian packages, TVM as wheels, and qemu if
it is not installed (about 600 MB in all). Integers computed there are those of real hardware; times mean nothing.
TVM's RPC has no authentication and lets its client run anything: the server listens on the loopback only, unless told
otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

from packages import Apt, BoardError, default_cache, emulator, locked, run

# 0.7.0 registers its types for 8 s under qemu, in every process that imports TVM; 0.6.0 for a third of a second.
WHEELS = ("ml_dtypes==0.6.0", "numpy", "psutil", "cloudpickle", "typing_extensions")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def tvm_wheels() -> list[str]:
    """The same TVM as here, so that both sides agree on their protocol."""
    try:
        return [f"{name}=={importlib.metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    except importlib.metadata.PackageNotFoundError as e:
        raise BoardError(f"package {e.name} is not installed here; run this with the Python that has tvm-mpq") from e


def make_root(cache: Path) -> Path:
    """A folder that holds Python for 64-bit ARM and the libraries it needs."""
    root = cache / "root"
    Apt(cache, "arm64").unpack(["python3", "libstdc++6", "libgomp1"], root)
    if not (root / "lib").exists():  # newer releases keep everything under usr, and link to it
        (root / "lib").symlink_to("usr/lib")
    return root


def interpreter(root: Path) -> Path:
    """The program behind python3, whose name says its version."""
    found = [p for p in (root / "usr/bin").glob("python3.*") if p.suffix[1:].isdigit()]
    if not found:
        raise BoardError(f"no Python in {root}; remove that folder and try again")
    return found[0]


def install_wheels(cache: Path, python: Path) -> Path:
    """TVM and what it needs, for the board's Python."""
    wanted = [*tvm_wheels(), *WHEELS]
    site = cache / f"site-{python.name}-{'-'.join(wanted[:3])}"
    if (site / ".complete").exists():
        return site
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    command += ["--target", str(site), "--only-binary=:all:", "--python-version", python.name.removeprefix("python")]
    command += ["--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS), *wanted]
    run(command, f"cannot fetch the wheels {', '.join(wanted)} for 64-bit ARM and {python.name}")
    (site / ".complete").touch()
    return site


def prepare(cache: Path) -> tuple[list[str], dict[str, str]]:
    """Fetch what is missing; the command that starts Python on the board, without -cpu, and its environment."""
    with locked(cache):
        qemu = emulator(cache, "aarch64")
        root = make_root(cache)
        python = interpreter(root)
        site = install_wheels(cache, python)
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return [qemu, "-L", str(root), str(python)], environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9190, help="first port to try (default: %(default)s)")
    parser.add_argument("--tracker", metavar="HOST:PORT", default="", help="register there")
    parser.add_argument("--key", default="arm-board", help="what the board is called (default: %(default)s)")
    parser.add_argument("--cpu", default="cortex-a72", help="the core that qemu imitates (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a kernel (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for downloads (%(default)s)")
    parser.add_argument("--prepare-only", action="store_true", help="fetch everything and stop")
    args = parser.parse_args()
    if args.tracker and not args.tracker.rpartition(":")[2].isdigit():
        parser.error(f"--tracker is HOST:PORT (got {args.tracker!r})")
    try:
        command, environment = prepare(args.cache)
    except BoardError as e:
        sys.exit(f"error: {e}")
    if args.prepare_only:
        return
    serve = Path(__file__).with_name("serve.py")
    options = [f"--host={args.host}", f"--port={args.port}", f"--key={args.key}", f"--tracker={args.tracker}"]
    environment = {**os.environ, **environment, "TVM_NUM_THREADS": str(args.threads), "QEMU_CPU": args.cpu}
    print("starting the board; importing TVM takes about ten seconds under emulation", file=sys.stderr, flush=True)
    os.execve(command[0], [*command, str(serve), *options], environment)  # so that ending this ends the board


if __name__ == "__main__":
    main()
