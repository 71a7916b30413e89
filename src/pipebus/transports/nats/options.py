"""What the URL of a NATS server says. What is secret in it is read here, and shown nowhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pipebus.errors import PipelineError, SubjectError, UnsupportedCapability
from pipebus.message.subject import check_pattern
from pipebus.values import quantities
from pipebus.values.quantities import Bytes, Seconds

FORM: Final = '"nats://localhost:4222", with user and options as in "nats://user:password@host:4222?stream=ORDERS&prefix=shop"'
PORT: Final = 4222
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_LOOPBACK: Final = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Options:
    """
    Args:
        hosts: "host:port" of each server of a cluster.
        user, password, token: Who we are; or `creds`, a file that says it.
        stream: Name of the stream; what is kept beside it is in `<stream>-DEAD`. Left out: PIPEBUS, or as the prefix says.
        prefix: Subject `orders.created` is `<prefix>.orders.created` on the server. "": the same there; then say `subjects`.
        subjects: Patterns of the server's subjects that the stream keeps, joined by commas; for an empty prefix.
        storage: "file", or "memory": kept while the server runs. Only of a stream that is created.
        replicas: Servers that keep each message, 1 to 5.
        lease: Seconds for which a delivery that is not renewed is its process's, >= 0.5. Programs that share a subscription
            state the same; else that of the last one to bind is all theirs.
        window: Seconds for which a second publish of an id is recognised, >= 0.1.
        retention: Seconds for which a message is kept, read or not; None: for ever.
        max_bytes: Most bytes of the stream; beyond it publishing fails. None: no limit.
        core: Without JetStream: who does not listen misses it, and nothing is kept.
        events: How messages are written: "structured", one JSON with all of a message, or "binary", the body alone as JSON (or
            its bytes) and everything else in headers, for programs that know nothing of CloudEvents. Both are read.
        tls: Encrypt, and check the server's certificate; `cafile`, `cert`, `key` are files of PEM.
        plaintext: Not encrypted, and not only on this machine: everybody on the way reads messages and passwords.
        connect_timeout: Seconds that a start waits for a connection, > 0.
        publish_timeout: Seconds that a publish waits for the server's word, > 0. A cluster that has lost a server may need 9.
        stated: Names of the options that the URL has.
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
    retention: Seconds | None = None
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
        """Whether the connection has to be."""
        return self.tls or bool(self.cafile or self.cert)

    def __str__(self) -> str:
        """The URL, for people: without user, password and token."""
        return self.shown

    @classmethod
    def from_url(cls, url: str) -> Options:
        """
        Raises:
            UnsupportedCapability: naming what in the URL is wrong; secrets are left out.
        """
        scheme, shown = urlsplit(url).scheme, redacted(url)

        def bad(text: str) -> UnsupportedCapability:
            return UnsupportedCapability(f'"{shown}": {text}; the form is {FORM}')

        parts = urlsplit(url)
        known = [one.name for one in fields(cls) if one.name not in NO_OPTIONS]
        if "@" in _after_place(url):  # in an option's value, or something of a password
            names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
            if "@" in parts.path + parts.fragment or not {*names} <= {*known}:
                raise UnsupportedCapability(
                    f"an @ stands behind a /, ? or #; in a password these are written %2F, %3F and %23; the form is {FORM}"
                )
        user, password, token = _credentials(parts.netloc)
        values: dict[str, Any] = {"hosts": tuple(_hosts(parts.netloc, bad)), "tls": scheme == "tls", "shown": shown}
        values |= {"user": user, "password": password, "token": token}
        if parts.path not in ("", "/"):
            raise bad(f'the path "{parts.path}" has no meaning')
        if parts.fragment:
            raise bad("what follows # has no meaning; in a password it is written %23")
        found: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in known:
                shown = shown.partition("?")[0]  # nobody knows what it says
                raise bad(f'option "{name}" is unknown; there are {", ".join(known)}')
            if name in found:
                raise bad(f'option "{name}" is given twice')
            found[name] = value
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


def _after_place(url: str) -> str:
    """What follows the host and port."""
    rest = url.partition("://")[2]
    end = min((found for found in map(rest.find, "/?#") if found >= 0), default=len(rest))
    return rest[end:]


def redacted(url: str) -> str:
    """A URL without what stands before its @."""
    head, slashes, rest = url.partition("://")
    after = _after_place(url)
    place = rest[: len(rest) - len(after)].rpartition("@")
    # An @, / or ? in a password should be written %40, %2F or %3F; where it is not, nothing of it may be shown either.
    if "@" in after:
        return f"{head}{slashes}***@{rest.rpartition('@')[2]}"
    return f"{head}{slashes}{'***@' if place[1] else ''}{place[2]}{after}"


def _credentials(netloc: str) -> tuple[str | None, str | None, str | None]:
    """User and password, or a token: what is alone before the @."""
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
            raise bad(f'"{one}" is no host and port: {error}') from None
        if not host:
            raise bad("it names no host")
        hosts.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return hosts


def _check(options: Options, bad: Any) -> None:
    if not options.prefix and not options.subjects and not options.core:
        raise bad('an empty prefix says nothing of what the stream keeps; say it, as in "subjects=orders.>,bills.>"')
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
        raise bad("creds and a user or token in the URL say twice who we are")
    if options.retention is not None and options.retention < options.window:
        raise bad(f"retention={options.retention:g} s is shorter than window={options.window:g} s")


def _seconds(least: float) -> Any:
    def read(text: str, name: str) -> float:
        return quantities.seconds(_number(text), name, least=least)

    return read


def _number(text: str) -> object:
    """A plain number counts seconds or bytes."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _size(text: str, name: str) -> int:
    return quantities.size(_number(text), name, least=2**16)


def _yes(text: str, name: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f'{name}={text!r} is "yes" or "no"')
    return text == "yes"


def _either(one: str, other: str) -> Any:
    def read(text: str, name: str) -> str:
        if text not in (one, other):
            raise ValueError(f'{name}={text!r} is unknown; it is "{one}" or "{other}"')
        return text

    return read


def _replicas(text: str, name: str) -> int:
    if text not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"{name}={text!r} is a number of servers, 1 to 5")
    return int(text)


def _stream(text: str, name: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{name}={text!r} is a name of letters, digits, - and _")
    return text


def _prefix(text: str, name: str) -> str:
    if text and not _PREFIX.fullmatch(text):
        raise ValueError(f"{name}={text!r} is a subject whose tokens have letters, digits, - and _ only")
    return text


def _subjects(text: str, name: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    for one in found:
        check_pattern(one)
    return found


def _path(text: str, name: str) -> str:
    if not text:
        raise ValueError(f"{name} is the path of a file")
    return text


_READ: Final[dict[str, Any]] = {
    "stream": _stream, "prefix": _prefix, "subjects": _subjects, "storage": _either("file", "memory"), "replicas": _replicas,
    "lease": _seconds(0.5), "window": _seconds(0.1), "retention": _seconds(1.0), "max_bytes": _size, "core": _yes,
    "events": _either("structured", "binary"), "tls": _yes, "plaintext": _yes,
    "cafile": _path, "cert": _path, "key": _path, "creds": _path,
    "connect_timeout": _seconds(0.001), "publish_timeout": _seconds(0.001),
}  # fmt: skip
