"""Runs the app for the tests in a process of its own, as a stranger would, but watched.

    python serve.py PORT MODELS DEFAULT [KEEP_SECONDS]

MODELS is a folder of checkpoints ("-": the shipped ones) and DEFAULT the name of the one to use.
Connections to other machines are refused, and each attempt prints a line with LEFT THE MACHINE.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys
from pathlib import Path

READERS = 2  # readings at a time, however many cores there are: tests count who waits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def watch_network() -> None:
    """Refuse, and tell about, every connection and look-up that is not to this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def is_here(host: object) -> bool:
        if host in (None, "", "localhost", b"localhost"):
            return True
        try:
            address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and not is_here(address[0]):
            print("LEFT THE MACHINE: connect", address, flush=True)
            raise OSError("this test allows no network")
        return connect(self, address)

    def guarded_look_up(host, *arguments, **options):
        if not is_here(host):
            print("LEFT THE MACHINE: look up", host, flush=True)
            raise socket.gaierror("this test allows no network")
        return look_up(host, *arguments, **options)

    socket.socket.connect = guarded_connect
    socket.getaddrinfo = guarded_look_up


def main(port: str, models: str, default: str, keep: str | None = None) -> None:
    watch_network()
    import app

    if models != "-":
        # Patched before anything loads: the app imports the classifier only in the background.
        import fracture.classifier

        fracture.classifier.MODELS = Path(models)
        fracture.classifier.DEFAULT_MODEL = default
    for function in app.demo.fns.values():
        if function.concurrency_id == "read":
            function.concurrency_limit = READERS
    if keep:
        app.KEEP_SECONDS, app.SWEEP_SECONDS = int(keep), 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.demo.launch(server_port=int(port), quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
