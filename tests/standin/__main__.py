"""`python -m standin FOLDER [--port N] [--no-xet]`: serve the folder on loopback, print the address."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from standin.hub import Hub


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m standin", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--no-xet", action="store_true")
    args = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", args.port))
    listener.listen(128)  # from here on clients can connect and wait
    port = listener.getsockname()[1]
    hub = Hub(args.folder, port=port, xet=not args.no_xet)
    config = uvicorn.Config(
        hub, log_level="critical", http="h11", lifespan="off", timeout_keep_alive=60, timeout_graceful_shutdown=1
    )
    print(f"http://127.0.0.1:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
