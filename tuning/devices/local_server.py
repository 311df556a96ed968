"""The child process in which a `LocalSession` measures: a TVM RPC server for one connection.

Bound to 127.0.0.1 on a free port, and serves only a client that knows the key, since RPC lets its client run anything.
TVM's stock server is not used: it forks for each connection, and after one crashing kernel it accepts no more.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
import struct
from typing import Any

from tvm_mpq import processes as children
from tvm_mpq.tuning.devices import shared_files


def _accept(listener: socket.socket, key: str) -> socket.socket:
    """Wait for a client that knows `key`, by TVM's RPC handshake."""
    from tvm.rpc import base

    while True:
        connection, _ = listener.accept()
        try:
            magic, length = struct.unpack("<ii", base.recvall(connection, 8))
            if magic == base.RPC_MAGIC and 0 < length < 4096:
                words = base.recvall(connection, length).decode().split()
                if words and hmac.compare_digest(words[0], f"client:{key}"):
                    name = b"server:local"
                    connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(name)) + name)
                    return connection
                connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
        except (OSError, UnicodeDecodeError):
            pass
        connection.close()


def main() -> None:
    config, _ = children.enter()
    import tvm  # noqa: F401  after enter(), which pins the process before TVM makes its threads
    from tvm.rpc import _ffi_api, server
    from tvm.support import utils

    logging.getLogger("RPCServer").setLevel(logging.ERROR)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    children.reply({"port": listener.getsockname()[1]})
    connection = _accept(listener, config["key"])
    listener.close()
    folder: Any = utils.tempdir(custom_path=os.path.join(config["folder"], config["uploads"]))
    server._server_env(None, folder)
    shared_files.register()
    _ffi_api.ServerLoop(connection.fileno())


if __name__ == "__main__":
    main()
