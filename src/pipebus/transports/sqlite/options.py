"""What the URL of a SQLite file says."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Literal
from urllib.parse import unquote, urlsplit

from pipebus.errors import PipelineError, UnsupportedCapability
from pipebus.transports.urls import number, read_options
from pipebus.values import quantities
from pipebus.values.quantities import Bytes, Seconds

FORM = '"sqlite:///bus.db" (relative), "sqlite:////var/lib/bus.db" (absolute), with options as in "sqlite:///bus.db?lease=10s"'


@dataclass(frozen=True)
class Options:
    """
    Args:
        path: The file, with links resolved; its folder must exist.
        durability: "power": an acknowledged publish survives a power cut (each commit of publishes is synced to the disk).
            "process": it survives the death of processes only.
        lease: Seconds for which a process that gives no sign of life keeps its deliveries, >= 0.1. The death of a process is
            noticed within a second.
        window: Seconds for which a second publish of an id is recognised, >= 0.
        retention: Seconds for which messages are kept that nobody waits for, for `deliver="all"` and `tail`; at least `window`.
        max_bytes: Most bytes that the file may use. Beyond that, messages that nobody waits for are deleted; if that is not
            enough, publishing fails.
        wait: Seconds to wait for others who write, > 0.
        named: The file as the URL names it, with links, which may lead to another file later.
    """

    path: str
    durability: Literal["power", "process"] = "power"
    lease: Seconds = 30.0
    window: Seconds = 120.0
    retention: Seconds = 0.0
    max_bytes: Bytes | None = None
    wait: Seconds = 30.0
    named: str = field(default="", compare=False)

    @classmethod
    def from_url(cls, url: str) -> Options:
        """
        Raises:
            UnsupportedCapability: the text says what is wrong in the URL.
        """

        def bad(text: str) -> UnsupportedCapability:
            return UnsupportedCapability(f"{url!r}: {text}; the form is {FORM}")

        parts = urlsplit(url)
        path = unquote(parts.path).removeprefix("/")
        if parts.netloc:
            raise bad(f'"{parts.netloc}" is where a host would be, and a file has none')
        if not path or path.endswith("/") or ":memory:" in path:
            raise bad("it names no file")
        if parts.fragment:
            raise bad(f'"#{parts.fragment}" has no meaning (a # in a file\'s name is %23)')
        found = read_options(parts.query, [one.name for one in fields(cls) if one.name not in ("path", "named")], bad)
        values: dict[str, object] = {}
        try:
            for name, least in (("lease", 0.1), ("window", 0.0), ("retention", 0.0), ("wait", 0.001)):
                if name in found:
                    values[name] = quantities.seconds(number(found.pop(name)), name, least=least)
            if "max_bytes" in found:
                values["max_bytes"] = quantities.size(number(found.pop("max_bytes")), "max_bytes", least=2**20)
        except PipelineError as error:
            raise bad(str(error)) from None
        durability = found.pop("durability", "power")
        if durability not in ("power", "process"):
            raise bad(f'durability={durability!r} is unknown; it is "power" or "process"')
        named = os.path.abspath(path)
        return cls(path=os.path.realpath(named), named=named, durability=durability, **values)  # type: ignore[arg-type]
