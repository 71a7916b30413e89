"""What the URL of a NATS server says. Its secrets are read here and shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pipebus.errors import PipelineError, SubjectError, UnsupportedCapability
from pipebus.message.subject import check_pattern
from pipebus.transports.urls import after_host, number, read_options, redacted
from pipebus.values import quantities
from pipebus.values.quantities import Bytes, Seconds

FORM: Final = '"nats://localhost:4222", with user and options as in "nats://user:password@host:4222?stream=ORDERS&prefix=shop"'
PORT: Final = 4222
_LOOPBACK: Final = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+")


@dataclass(frozen=True)
class Options:
    """
    Args:
        hosts: "host:port" of each server of a cluster.
        user, password, token: The login.
        stream: Name of the stream; dead letters are in `<stream>-DEAD`. Default: the prefix in capitals, or PIPEBUS.
        prefix: Subject `orders.created` is `<prefix>.orders.created` on the server. "": it is the same there, and `subjects`
            must be given.
        subjects: Patterns of the server's subjects that the stream keeps, joined by commas; for an empty prefix.
        storage: "file", or "memory": kept while the server runs. Used only when the stream is created.
        replicas: Servers that keep each message, 1 to 5.
        lease: Seconds for which a process keeps a delivery without renewing it, >= 0.5. Programs that share a subscription
            should state the same value; otherwise the last one to bind sets it for all of them.
        window: Seconds for which a second publish of an id is recognised, >= 0.1.
        retention: Seconds for which a message is kept, read or not; None (`forever` in the URL): without end. If it is not
            stated, only a new stream gets it. The default, a week, is that of Kafka: a program that was away over a weekend
            still finds everything, and yet the stream stops growing.
        max_bytes: Most bytes of the stream; beyond that, publishing fails. None: no limit but that of the server. It reserves
            the bytes of each stream that has a limit, so no default would fit every disk.
        core: Without JetStream: nothing is kept, and a program that does not listen misses messages.
        events: How messages are written: "structured", one JSON with all of a message, or "binary", the body alone as JSON (or
            its bytes) and everything else in headers, for programs that know nothing of CloudEvents. Both are read.
        tls: Encrypt, and check the server's certificate. `tls://` says the same.
        cafile: PEM file of the authority that signed the server's certificate, if the system does not know it; implies `tls`.
        cert, key: PEM files of this program's own certificate and its key, for servers that ask for one; implies `tls`.
        creds: File that contains the login, in place of a user or token.
        plaintext: Allow an unencrypted connection to another machine; anybody on the way can read messages and passwords.
        connect_timeout: Seconds that a start waits for a connection, > 0.
        publish_timeout: Seconds that a publish waits for the server's confirmation, > 0. A cluster that has lost a server may
            need 9.
        stated: Names of the options that the URL contains.
    """

    hosts: tuple[str, ...]
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    stream: str = "PIPEBUS"
    prefix: str = "pipebus"
    subjects: tuple[str, ...] = ()
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    lease: Seconds = 30.0
    window: Seconds = 120.0
    retention: Seconds | None = 7 * 86_400.0
    max_bytes: Bytes | None = None
    core: bool = False
    events: Literal["structured", "binary"] = "structured"
    tls: bool = False
    plaintext: bool = False
    cafile: str | None = None
    cert: str | None = None
    key: str | None = None
    creds: str | None = None
    connect_timeout: Seconds = 5.0
    publish_timeout: Seconds = 15.0
    stated: frozenset[str] = frozenset()
    shown: str = ""

    @property
    def encrypted(self) -> bool:
        """Whether the connection must be encrypted."""
        return self.tls or bool(self.cafile or self.cert)

    def __str__(self) -> str:
        """The URL, for people: without user, password and token."""
        return self.shown

    @classmethod
    def from_url(cls, url: str) -> Options:
        """
        Raises:
            UnsupportedCapability: the text says what is wrong in the URL, without its secrets.
        """
        scheme, shown = urlsplit(url).scheme, redacted(url)

        def bad(text: str) -> UnsupportedCapability:
            return UnsupportedCapability(f'"{shown}": {text}; the form is {FORM}')

        parts = urlsplit(url)
        known = [one.name for one in fields(cls) if one.name not in NO_OPTIONS]
        unknown = not {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} <= {*known}
        if "@" in after_host(url) and ("@" in parts.path + parts.fragment or unknown):  # it may belong to a password
            raise UnsupportedCapability(
                f"an @ follows a /, ? or #; in a password these are written %2F, %3F and %23; the form is {FORM}"
            )
        user, password, token = _credentials(parts.netloc)
        values: dict[str, Any] = {"hosts": tuple(_hosts(parts.netloc, bad)), "tls": scheme == "tls", "shown": shown}
        values |= {"user": user, "password": password, "token": token}
        if parts.path not in ("", "/"):
            raise bad(f'the path "{parts.path}" has no meaning')
        if parts.fragment:
            raise bad("what follows # has no meaning; in a password it is written %23")
        if unknown:
            shown = shown.partition("?")[0]  # the value of an unknown option may be a secret
        found = read_options(parts.query, known, bad)
        for name, value in found.items():
            try:
                values[name] = _READ[name](value, name)
            except (PipelineError, SubjectError, ValueError) as error:
                raise bad(str(error)) from None
        if "prefix" in found and "stream" not in found and values["prefix"]:
            values["stream"] = values["prefix"].upper().replace(".", "_")
        made = cls(**values, stated=frozenset(found))
        _check(made, bad)
        return made


NO_OPTIONS: Final = ("hosts", "user", "password", "token", "stated", "shown")


def _credentials(netloc: str) -> tuple[str | None, str | None, str | None]:
    """User and password; or a token, which is all that precedes the @."""
    before, at, _ = netloc.rpartition("@")
    if not at:
        return None, None, None
    user, colon, password = before.partition(":")
    if colon:
        return unquote(user), unquote(password), None
    return None, None, unquote(user)


def _hosts(netloc: str, bad: Any) -> list[str]:
    hosts = []
    for one in netloc.rpartition("@")[2].split(","):
        try:
            parts = urlsplit(f"//{one}")
            host, port = parts.hostname, parts.port or PORT
        except ValueError as error:
            raise bad(f'"{one}" is not a host and port: {error}') from None
        if not host:
            raise bad("it names no host")
        hosts.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return hosts


def _check(options: Options, bad: Any) -> None:
    if not options.prefix and not options.subjects and not options.core:
        raise bad('an empty prefix does not say what the stream keeps; say it, as in "subjects=orders.>,bills.>"')
    if options.prefix and options.subjects:
        raise bad(f'subjects are for an empty prefix; with prefix={options.prefix} the stream keeps "{options.prefix}.>"')
    away = [host for host in options.hosts if not _LOOPBACK.match(host)]
    if away and not options.encrypted and not options.plaintext:
        raise bad(
            f"on the way to {away[0]} everybody could read messages and passwords; say tls:// instead of nats://, or "
            "plaintext=yes where the network can be trusted"
        )
    if options.encrypted and options.plaintext:
        raise bad("tls and plaintext contradict each other")
    if options.key and not options.cert:
        raise bad("key is given without cert")
    if options.creds and (options.user or options.token):
        raise bad("creds and a user or token in the URL say twice who this program is")
    if options.retention is not None and options.retention < options.window:
        raise bad(f"retention={options.retention:g} s is shorter than window={options.window:g} s")


def _seconds(least: float) -> Any:
    def read(text: str, name: str) -> float:
        return quantities.seconds(number(text), name, least=least)

    return read


def _retention(text: str, name: str) -> float | None:
    return None if text == "forever" else _seconds(1.0)(text, name)


def _size(text: str, name: str) -> int:
    return quantities.size(number(text), name, least=2**16)


def _checked(fits: Callable[[str], object], what: str) -> Any:
    def read(text: str, name: str) -> str:
        if not fits(text):
            raise ValueError(f"{name}={text!r} must be {what}")
        return text

    return read


def _one_of(*allowed: str) -> Any:
    return _checked(allowed.__contains__, " or ".join(f'"{one}"' for one in allowed))


def _yes(text: str, name: str) -> bool:
    return bool(_one_of("yes", "no")(text, name) == "yes")


def _replicas(text: str, name: str) -> int:
    return int(_checked(re.compile("[1-5]").fullmatch, "a number of servers, 1 to 5")(text, name))


def _subjects(text: str, name: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    for one in found:
        check_pattern(one)
    return found


_path = _checked(bool, "the path of a file")
_READ: Final[dict[str, Any]] = {
    "stream": _checked(re.compile(r"[A-Za-z0-9_-]{1,200}").fullmatch, "a name of letters, digits, - and _"),
    "prefix": _checked(re.compile(r"([\w-]+(\.[\w-]+)*)?", re.ASCII).fullmatch, "a subject of letters, digits, - and _"),
    "subjects": _subjects, "storage": _one_of("file", "memory"), "replicas": _replicas, "max_bytes": _size,
    "lease": _seconds(0.5), "window": _seconds(0.1), "retention": _retention,
    "connect_timeout": _seconds(0.001), "publish_timeout": _seconds(0.001),
    "core": _yes, "tls": _yes, "plaintext": _yes, "events": _one_of("structured", "binary"),
    "cafile": _path, "cert": _path, "key": _path, "creds": _path,
}  # fmt: skip
