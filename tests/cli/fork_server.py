"""
A process that has imported the command line, and forks a process for each command: a command takes 50 ms instead of 600.

The forked process has arguments, a folder, an environment, pipes, signals, an exit code and an end of the interpreter of its
own, which is all that the tests look at. `cli_helpers.run` uses it, and starts Python where the start is what is tested.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

PRELOADED = (
    "jmespath",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
    "sqlite3",
    "structlog",
    "pipebus.config.catalogue",
    "pipebus.config.files",
    "pipebus.filters",
    "pipebus.inputs.records",
    "pipebus.testing.files.file_tests",
    "pipebus.transports.memory",
    "pipebus.transports.sqlite.transport",
)
"""What the commands import once they run."""

STREAMS = (("stdin", 0, "r", "strict"), ("stdout", 1, "w", "strict"), ("stderr", 2, "w", "backslashreplace"))
"""The streams of a program with PYTHONIOENCODING=utf-8. Those of the server know what kind of file the server had."""


class ForkServer:
    """The process, as those who ask it see it."""

    def __init__(self, env: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._lock = threading.Lock()

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def run(
        self, argv: list[str], cwd: str, env: dict[str, str], given: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Return the exit code, stdout and stderr of one command; without `given`, its stdin is at its end."""
        with self._lock:
            ends = [os.pipe() if given is not None else (os.open(os.devnull, os.O_RDONLY), -1), os.pipe(), os.pipe()]
            theirs = [ends[0][0], ends[1][1], ends[2][1]]
            asked = json.dumps({"argv": argv, "cwd": cwd, "env": env}).encode()
            socket.send_fds(self._socket, [asked], theirs)
            for fd in theirs:
                os.close(fd)
            child = int(self._socket.recv(100))
            found = [b"", b""]
            threads = [threading.Thread(target=self._read, args=(found, at, ends[at + 1][0])) for at in (0, 1)]
            if given is not None:
                threads.append(threading.Thread(target=self._write, args=(ends[0][1], given)))
            watchdog = threading.Timer(timeout, os.kill, (child, 9))
            for thread in (*threads, watchdog):
                thread.start()
            code = int(self._socket.recv(100))
            watchdog.cancel()
            for thread in threads:
                thread.join()
        return code, found[0], found[1]

    @staticmethod
    def _read(found: list[bytes], at: int, fd: int) -> None:
        with os.fdopen(fd, "rb") as stream:
            found[at] = stream.read()

    @staticmethod
    def _write(fd: int, data: bytes) -> None:
        with suppress(BrokenPipeError), os.fdopen(fd, "wb", buffering=0) as stream:
            while data:
                data = data[stream.write(data) :]


def serve(asking: socket.socket) -> dict[str, Any] | None:
    """Fork for each command: return what was asked, in the process that runs it, and None in the server, at its end."""
    while True:
        data, fds, _, _ = socket.recv_fds(asking, 1 << 20, 3)
        if not data:
            return None
        child = os.fork()
        if not child:
            asking.close()
            for target, fd in enumerate(fds):
                os.dup2(fd, target)
                os.close(fd)
            asked: dict[str, Any] = json.loads(data)
            return asked
        for fd in fds:
            os.close(fd)
        asking.send(str(child).encode())
        asking.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


if __name__ == "__main__":
    for name in PRELOADED:
        __import__(name)
    from pipebus.cli import build_parser

    build_parser()
    gc.collect()
    gc.freeze()
    if asked := serve(socket.socket(fileno=int(sys.argv[1]))):
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.path[0] = os.getcwd()
        for name, fd, mode, errors in STREAMS:
            stream = open(fd, mode, 1 if fd == 2 else -1, "utf-8", errors, closefd=False)  # noqa: SIM115, as Python itself does
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.argv = ["pipebus", *asked["argv"]]
        runpy.run_module("pipebus", run_name="__main__", alter_sys=True)
