"""
A process that has imported the command line, and forks a process for each command: a command takes 50 ms instead of 600.

The forked process has arguments, a folder, an environment, pipes, signals, an exit code and an end of the interpreter of its
own, which is all that the tests look at. `cli_helpers` uses it, except for programs whose start is what is tested.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
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
    """The process, as its clients see it: they start commands in it."""

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

    def start(self, argv: list[str], cwd: str, env: dict[str, str], fds: dict[int, int]) -> Forked:
        """Start a command. `fds`: the descriptors that it has, and which of ours they are."""
        asked = json.dumps({"argv": argv, "cwd": cwd, "env": env, "fds": list(fds)}).encode()
        status, theirs = os.pipe()
        with self._lock:
            socket.send_fds(self._socket, [asked], [theirs, *fds.values()])
            os.close(theirs)
            return Forked(int(self._socket.recv(100)), status)


class Forked:
    """A command that was started: the part of `subprocess.Popen` that the tests use."""

    stdin: Any = None
    stdout: Any = None
    stderr: Any = None
    returncode: int | None = None

    def __init__(self, pid: int, status: int) -> None:
        self.pid, self._status = pid, status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], 0)[0]:
                self.returncode = int(os.read(self._status, 100))
                os.close(self._status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("pipebus", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve(asking: socket.socket) -> dict[str, Any] | None:
    """Fork for each command: return what was asked, in the process that runs it, and None in the server, at its end."""
    running: dict[int, tuple[int, int]] = {}  # a descriptor that is ready once the process has ended: its id, where to say so
    while True:
        for ready in select.select([asking, *running], [], [])[0]:
            if ready is not asking:
                child, status = running.pop(ready)
                os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
                os.close(status)
                os.close(ready)
                continue
            data, received, _, _ = socket.recv_fds(asking, 1 << 20, 100)
            if not data:
                return None
            asked: dict[str, Any] = json.loads(data)
            status, *fds = received
            child = os.fork()
            if not child:
                asking.close()
                take(fds, asked["fds"], [status, *running, *(other for _, other in running.values())])
                return asked
            for fd in fds:
                os.close(fd)
            running[os.pidfd_open(child)] = child, status
            asking.send(str(child).encode())


def take(fds: list[int], numbers: list[int], others: list[int]) -> None:
    """Give the descriptors the numbers that the command knows them by, and close those of the server."""
    apart = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in fds]
    for fd in (*fds, *others):
        os.close(fd)
    for fd, number in zip(apart, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)


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
