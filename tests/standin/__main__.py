"""`python -m standin FOLDER [--port N] [--no-xet] [--tls FOLDER]`: serve the folder on loopback, print the address."""

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
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="https, with cert.pem and key.pem of this folder")
    args = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", args.port))
    listener.listen(128)  # from here on clients can connect and wait
    port = listener.getsockname()[1]
    hub = Hub(args.folder, scheme="https" if args.tls else "http", port=port, xet=not args.no_xet)
    tls = {"ssl_certfile": args.tls / "cert.pem", "ssl_keyfile": args.tls / "key.pem"} if args.tls else {}
    config = uvicorn.Config(
        hub,
        log_level="critical",
        http="h11",
        lifespan="off",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
        **tls,
    )
    print(hub.origin, flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
