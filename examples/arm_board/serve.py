"""Runs on the board: a TVM RPC server that comes back after a kernel has crashed it."""

from __future__ import annotations

import argparse
import logging
import multiprocessing

from tvm.rpc import server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--tracker", default="")
    args = parser.parse_args()
    multiprocessing.set_start_method("fork")  # each session is a child; importing TVM anew would take seconds
    name, _, tracker_port = args.tracker.rpartition(":")
    tracker = (name, int(tracker_port)) if args.tracker else None
    logging.getLogger("RPCServer").setLevel(logging.WARNING)
    while True:
        state = server.PopenRPCServerState(
            args.host, args.port, args.port + 100, tracker_addr=tracker, key=args.key, custom_addr=args.host
        )
        print(f"ready {state.port}", flush=True)
        state.thread.join()  # TVM's loop ends when a session's process does not end well
        state.sock.close()
        args.port = state.port


if __name__ == "__main__":
    main()
