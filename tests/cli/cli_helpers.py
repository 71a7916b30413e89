"""The real program for the tests of the command line: run until it ends, on a terminal, or live with its pipes in hand."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from fork_server import ForkServer

import pipebus

ROOT = Path(__file__).parents[2]
WEBHOOKS = ROOT / "examples" / "webhooks" / "pipebus.toml"
EVENTS = ROOT / "examples" / "webhooks" / "events.jsonl"
FLIGHTS = ROOT / "examples" / "flights" / "pipebus.toml"
ALLOW_FLIGHTS = ("--allow", "flights", "--allow", "pipebus.demo")

ENV = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "NO_COLOR", "COLUMNS")} | {
    "PYTHONPATH": str(Path(pipebus.__file__).parents[1]),
    "PYTHONIOENCODING": "utf-8",
    "PYTHONDONTWRITEBYTECODE": "1",
}
PIPEBUS = [sys.executable, "-m", "pipebus"]
WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich'] = None; from pipebus.cli import main; sys.exit(main())",
]
PATIENCE = 60.0
"""Seconds after which a program that hangs is killed; no test that passes waits for time."""


STARTS = ("PYTHON", "TZ", "LANG", "LC_")
"""Environment variables with these beginnings are read when Python starts."""

_server: ForkServer | None = None


def fork_server() -> ForkServer:
    """The process that forks the commands of this process."""
    global _server  # noqa: PLW0603
    if _server is None:
        _server = ForkServer(ENV)
        atexit.register(_server.close)
    return _server


def started(argv: Iterable[object], program: list[str], options: dict[str, Any]) -> Any:
    """`subprocess.Popen`, but `pipebus` itself is forked, unless the test wants a start that is out of the ordinary."""
    env = options.get("env", ENV)
    argv = [str(arg) for arg in argv]
    simple = options.keys() <= {"cwd", "env", "encoding", "stdin", "stdout", "stderr", "pass_fds"}
    if program is not PIPEBUS or not simple or starts_otherwise(env):
        return subprocess.Popen([*program, *argv], **options)
    theirs, ours = {}, {}
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        given = options[name]
        if given == subprocess.PIPE:
            theirs[fd], ours[name] = os.pipe() if name == "stdin" else os.pipe()[::-1]
        elif given == subprocess.DEVNULL:
            theirs[fd] = os.open(os.devnull, os.O_RDWR)
        else:
            theirs[fd] = os.dup(given if isinstance(given, int) else given.fileno())
    opened = list(theirs.values())
    theirs |= {fd: fd for fd in options.get("pass_fds", ())}
    process = fork_server().start(argv, os.path.abspath(options.get("cwd", ".")), env, theirs)
    for fd in opened:
        os.close(fd)
    encoding = options.get("encoding")
    for name, fd in ours.items():
        mode = "w" if name == "stdin" else "r"
        setattr(process, name, open(fd, mode, encoding=encoding) if encoding else open(fd, f"{mode}b", -1))  # noqa: SIM115
    return process


def run(*args: object, program: list[str] = PIPEBUS, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program until it ends, with stdin closed if there is no `input`."""
    given = options.pop("input", None)
    encoding = options.pop("encoding", "utf-8")
    pipes = {
        "stdin": subprocess.DEVNULL if given is None else subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    process = started(args, program, {"env": ENV, **pipes} | options)
    data = given.encode(encoding) if isinstance(given, str) else given
    found = {}

    def read(name: str) -> None:
        with getattr(process, name) as stream:
            found[name] = stream.read()

    def write() -> None:
        with suppress(BrokenPipeError), process.stdin as stream:
            stream.write(data)

    threads = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
    threads += [threading.Thread(target=write)] if data is not None else []
    watchdog = threading.Timer(PATIENCE, process.kill)
    for thread in (*threads, watchdog):
        thread.start()
    for thread in threads:
        thread.join()
    code = process.wait()
    watchdog.cancel()
    texts = [found[name].decode(encoding) if encoding else found[name] for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([*map(str, args)], code, *texts)


def starts_otherwise(env: dict[str, str]) -> bool:
    """Whether Python would start differently with this environment."""
    return any(name.startswith(STARTS) and env.get(name) != ENV.get(name) for name in env.keys() | ENV.keys())


def many(*argvs: list[Any], **options: Any) -> list[subprocess.CompletedProcess[str]]:
    """Run each of these command lines."""
    return [run(*argv, **options) for argv in argvs]


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The summary of `run --json`: the last line."""
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def masked(text: str) -> str:
    """Return the text without the elapsed time, which differs from run to run."""
    return re.sub(r"\d+\.\d\d s(, [\d,]+ records a second)?", "T s", text)


def plain(text: str) -> str:
    """Return the text without colours and cursor moves."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def jsonl(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


class OnTerminal(NamedTuple):
    code: int
    raw: str

    @property
    def text(self) -> str:
        return plain(self.raw).replace("\r\n", "\n")


def on_terminal(*args: object, columns: int = 100, program: list[str] = PIPEBUS, **options: Any) -> OnTerminal:
    """Return everything that a terminal with this many columns received."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    options = {"env": ENV | {"TERM": "xterm-256color"}, "stdin": theirs, "stdout": theirs, "stderr": theirs} | options
    process = started(args, program, options)
    os.close(theirs)
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        code = process.wait()
        watchdog.cancel()
        os.close(ours)
    return OnTerminal(code, seen.decode())


class Live:
    """
    A program at work. Its stderr, and on request its stdout, are collected on threads, so that it never waits for us.

    Args:
        notes: A pipe whose write end it is given as descriptor $NOTES: what its handlers tell the test.
    """

    def __init__(self, *args: object, program: list[str] = PIPEBUS, notes: bool = False, **options: Any) -> None:
        env = dict(options.pop("env", ENV))
        pass_fds: tuple[int, ...] = ()
        self.notes: Any = None
        write_end = None
        if notes:
            read_end, write_end = os.pipe()
            self.notes = os.fdopen(read_end, encoding="utf-8")
            env["NOTES"] = str(write_end)
            pass_fds = (write_end,)
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = started(args, program, streams | {"env": env, "pass_fds": pass_fds, "encoding": "utf-8"} | options)
        if write_end is not None:
            os.close(write_end)
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()
        self._threads: list[threading.Thread] = []
        self.err = Collected(self, self.process.stderr) if self.process.stderr else None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._watchdog.cancel()
        for thread in self._threads:
            thread.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr, self.notes):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def background(self, act: Any) -> threading.Thread:
        thread = threading.Thread(target=act, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def collect_out(self) -> Collected:
        return Collected(self, self.process.stdout)

    def write(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def write_behind(self, texts: Iterable[str]) -> threading.Thread:
        """Write on a thread as fast as the program reads; a program that stops reading ends the thread."""

        def write() -> None:
            try:
                for text in texts:
                    self.write(text)
                self.process.stdin.close()
            except (OSError, ValueError):
                pass

        return self.background(write)

    def close_in(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return its exit code, once all that it printed is collected."""
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return code


class Collected:
    """The lines of a stream, read on a thread."""

    def __init__(self, live: Live, stream: Any) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._news = threading.Condition()
        self._ended = False
        live.background(self._read)

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, count: int) -> list[str]:
        """Wait for this many lines, and return them."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.lines) >= count or self._ended, PATIENCE), self.lines[-5:]
            assert len(self.lines) >= count, f"it ended after {len(self.lines)} lines"
            return self.lines[:count]


def little_room(size: int) -> list[str]:
    """The program, where no file may be larger than this many bytes."""
    return ["sh", "-c", f'ulimit -S -f {size // 512}; exec "$0" "$@"', *PIPEBUS]


def make_room(live: Live) -> None:
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


SHOP = '''
import os
from pipebus import Dropped, Message, Rejected, transform


def note(text):
    """Tell the test, in one write: a pipe of the test's, or a file."""
    where = os.environ.get("NOTES", "")
    if where.isdigit():
        os.write(int(where), f"{text}\\n".encode())
    elif where:
        with open(where, "a") as file:
            file.write(f"{text}\\n")


def ok(message):
    note(message.body)


def die(message):
    raise ValueError(f"no use for {message.body}")


def held(message):
    """Goes on when the test lets it: by a byte in the gate, a named pipe, or by opening and closing it."""
    note(f"begun {message.body}")
    gate = os.open(os.environ["GATE"], os.O_RDONLY)
    os.read(gate, 1)
    os.close(gate)
    note(f"ended {message.body}")


def echo(message):
    return message.body


async def aecho(message):
    return message.body


@transform
def small(message):
    if message.body == "bad":
        raise Rejected("it is bad")
    return Dropped("it is dull") if message.body == "dull" else message


@transform
def boom(message):
    raise KeyError("boom")
'''


def subscription(name: str, subject: str, handler: str | None, **more: object) -> str:
    lines = ["[[subscriptions]]", f'name = "{name}"', f'subject = "{subject}"']
    lines += [] if handler is None else [f'handler = "shop:{handler}"']
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in more.items())]) + "\n"


class Shop:
    """A folder with a module `shop` and config files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("shop.py", SHOP)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def config(self, *parts: str, name: str = "bus.toml") -> Path:
        return self.write(name, "version = 1\n" + "\n".join(textwrap.dedent(part) for part in parts))

    def run(self, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return run(*args, **({"cwd": self.folder} | options))

    def live(self, *args: object, **options: Any) -> Live:
        return Live(*args, **({"cwd": self.folder} | options))


def assert_said_well(done: subprocess.CompletedProcess[str], code: int, *parts: str, lines: int = 1) -> None:
    """An error as a user wants it: its exit code, a line or a few, with what is wrong, and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    for part in parts:
        assert part in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= lines, done.stderr
