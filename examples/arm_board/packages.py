"""Debian packages of any architecture, fetched and unpacked without root and without touching the system.

apt gets a state folder of its own, so that neither root nor `dpkg --add-architecture` is needed. Packages are unpacked
with `dpkg -x`; their installation scripts do not run.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRIPLES = {"aarch64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf", "riscv64": "riscv64-linux-gnu"}
"""Architecture, as qemu names it, to the triple of its GNU compiler."""


class BoardError(RuntimeError):
    """Something that the user can mend; one line."""


def default_cache() -> Path:
    """The folder for downloads: $TVM_MPQ_ARM_BOARD, or one under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TVM_MPQ_ARM_BOARD") or f"{base}/tvm-mpq/arm-board").expanduser()


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One process at a time prepares a cache folder."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / ".lock").open("w")
    except OSError as e:
        raise BoardError(f"cannot use the cache folder {str(cache)!r}: {e.strerror}") from e
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str], what: str, **options: Any) -> str:
    """Run a program; its standard output. Raises BoardError with its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except OSError as e:
        raise BoardError(f"{what}: cannot start {command[0]!r} ({e.strerror})") from e
    if done.returncode:
        words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in words if line.lower().startswith(("e:", "error"))] or words[-1:]
        raise BoardError(f"{what}: {' '.join(errors[:2]) or f'{command[0]} ended with code {done.returncode}'}")
    return done.stdout


def debian_architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "arm": "armhf", "armv7l": "armhf"}.get(machine, machine)


class Apt:
    """Packages of one architecture from this system's own package sources.

    For this machine's architecture, what is installed counts as there; for another one everything is fetched.
    """

    def __init__(self, cache: Path, architecture: str) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise BoardError("packages are fetched with apt-get and dpkg, which Debian and Ubuntu have (got neither)")
        self.architecture = architecture
        self._state = cache / f"apt-{architecture}"
        for name in ("lists/partial", "archives/partial"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        status = self._state / "status"
        status.touch()
        if architecture == debian_architecture(platform.machine()):
            status = Path("/var/lib/dpkg/status")
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Debug::NoLocking": "true",
            "Dir::State": str(self._state),
            "Dir::State::Lists": str(self._state / "lists"),
            "Dir::State::Status": str(status),
            "Dir::Cache": str(self._state),
            "Dir::Cache::Archives": str(self._state / "archives"),
        }
        self._command = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]

    def unpack(self, packages: Sequence[str], root: Path, *, dependencies: bool = True) -> None:
        """Fetch packages, and what they depend on, and unpack them into `root`. A second call finds them there."""
        stamp = root / f".has-{'-'.join(packages)}"
        if stamp.exists():
            return
        archives = self._state / "archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        what = f"cannot fetch the Debian packages {', '.join(packages)} for {self.architecture}"
        # Sources without this architecture make the update fail; what counts is whether the packages are found then.
        subprocess.run([*self._command, "update"], capture_output=True, check=False)
        if dependencies:
            run([*self._command, "--download-only", "install", *packages], what)
        else:
            run([*self._command, "download", *packages], what, cwd=archives)
        found = sorted(archives.glob("*.deb"))
        if not found:
            raise BoardError(f"{what}: apt-get brought nothing")
        root.mkdir(parents=True, exist_ok=True)
        for package in found:
            run(["dpkg", "-x", str(package), str(root)], f"cannot unpack {package.name}")
            package.unlink()
        stamp.touch()


def emulator(cache: Path, architecture: str) -> str:
    """qemu for programs of an architecture (a key of TRIPLES): the installed one, else unpacked under `cache`."""
    for name in (f"qemu-{architecture}-static", f"qemu-{architecture}"):
        if found := shutil.which(name):
            return found
    root = cache / "tools"
    program = root / f"usr/bin/qemu-{architecture}-static"
    if not program.exists():
        _announce(program.name, "qemu-user-static", root)
        Apt(cache, _here()).unpack(["qemu-user-static"], root, dependencies=False)
        wanted = {f"qemu-{name}-static" for name in TRIPLES}
        for other in program.parent.glob("qemu-*-static"):  # of dozens of machines, hundreds of megabytes
            if other.name not in wanted:
                other.unlink()
    return str(program)


def cross_compiler(cache: Path, architecture: str, driver: str = "gcc") -> str:
    """gcc or g++ for an architecture: the installed one, else unpacked under `cache` behind a script that starts it."""
    name = f"{TRIPLES[architecture]}-{driver}"
    if found := shutil.which(name):
        return found
    root, script = cache / "tools", cache / "bin" / name
    if not script.exists():
        package = f"{driver}-{TRIPLES[architecture]}"
        _announce(name, package, root)
        # gcc only recommends its C library.
        library = f"libc6-dev-{debian_architecture(architecture)}-cross"
        Apt(cache, _here()).unpack([package, library], root)
        libraries = root / "usr/lib" / f"{platform.machine()}-linux-gnu"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(
            "#!/bin/sh\n"
            f'LD_LIBRARY_PATH="{libraries}:$LD_LIBRARY_PATH" exec "{root}/usr/bin/{name}" --sysroot="{root}" "$@"\n'
        )
        script.chmod(0o755)
    return str(script)


def libraries_root(cache: Path, architecture: str) -> Path:
    """Where the cross compiler's C library lies, for the emulator's -L."""
    triple = TRIPLES[architecture]
    installed = Path("/usr") / triple
    return installed if (installed / "lib/libc.so.6").exists() else cache / "tools/usr" / triple


def _here() -> str:
    return debian_architecture(platform.machine())


def _announce(program: str, package: str, root: Path) -> None:
    print(f"{program} is not installed (package {package}); fetching it into {root}", file=sys.stderr)
