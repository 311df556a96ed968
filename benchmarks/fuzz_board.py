"""The board of `fuzz.py`: a TVM RPC server whose replies are damaged on their way.

Every session has a server of its own, which ends with it: TVM's own listener serves one client at a time, and none any
more once a session has ended badly, so that one damaged case would speak for all that follow.

Started with a folder, whose `replies.json` holds the seed of the next session's damage; says its port.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

import tvm_mpq.cli.alone

tvm_mpq.cli.alone.import_tvm_alone()

from tvm.rpc import base  # noqa: E402  without PyTorch, which takes seconds
from tvm.rpc import server as tvm_server  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for sessions
    tvm_server.logger.disabled = True
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _session(client, json.loads((folder / "replies.json").read_text())["seed"])
                os._exit(0)
            client.close()


def _session(client: socket.socket, seed: int) -> None:
    near, far = socket.socketpair()
    work = tempfile.mkdtemp(prefix="fuzz_board_")
    server = os.fork()
    if server == 0:
        near.close()
        client.close()
        with contextlib.suppress(Exception):
            _serve(far, work)
        os._exit(0)
    far.close()
    with contextlib.suppress(OSError):
        _carry(client, near, damage(random.Random(seed)))
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGKILL)
    shutil.rmtree(work, ignore_errors=True)


def damage(rng: random.Random) -> dict[int, int]:
    """Which bytes of the replies become what."""
    reach = (40, 400, 4000)
    count = rng.choice((1, 1, 2, 5))
    return {int(rng.choice(reach) * rng.random()): rng.choice((0, 255, rng.randrange(256))) for _ in range(count)}


def _carry(client: socket.socket, server: socket.socket, damage: dict[int, int]) -> None:
    """Until one of the two ends it."""
    seen = 0
    while True:
        for source in select.select([client, server], [], [])[0]:
            data = bytearray(source.recv(65536))
            if not data:
                return
            if source is server:
                for at in [at for at in damage if seen <= at < seen + len(data)]:
                    data[at - seen] = damage.pop(at)
                seen += len(data)
            (client if source is server else server).sendall(data)


def _serve(connection: socket.socket, work: str) -> None:
    """TVM's handshake with one client of any key, then its loop."""
    magic, length = struct.unpack("<ii", base.recvall(connection, 8))
    if magic != base.RPC_MAGIC:
        return
    base.recvall(connection, length)
    name = b"server:"
    connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(name)) + name)
    os.chdir(work)
    tvm_server._serve_loop(connection, None, tvm_server.utils.tempdir(os.path.join(work, "files")))


if __name__ == "__main__":
    main()
