"""What a transport promises, and the check whether that is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from pipebus.errors import UnsupportedCapability

SURVIVES: Final = ("nothing", "process", "server_restart", "power")


class Capabilities(msgspec.Struct, frozen=True):
    """
    What a transport promises. The bus refuses requests for anything else.

    Args:
        survives: What an acknowledged publish survives: nothing, process, server_restart, power.
        order: First deliveries keep their order among the messages of a subject, or of a key; or not at all ("none").
        groups: Several processes may share the work of one subscription name.
        exclusive_keys: Of the messages of a key, a subscription handles one at a time, over all processes that share it; False:
            within each of them. `order="key"` together with `groups` requires it.
        delay: Messages may be published with a delay.
        dedup_window: Seconds for which a second publish of an id is recognised; 0: never.
        replay: Older messages may be read again (`deliver="all"`).
        objects: Actors and `Ref`s may be subjects: nothing is encoded.
        multi_process: Several processes may use it at once.
        dead_letters: It stores dead letters, so that they outlive the program.
        memory: Filters can store what they remember in it, for all processes and across restarts.
        transactions: A handler's own writes, its publishes and its acknowledgement can be one transaction.
        outbox: A publish can be a part of a transaction of the application: `publish(…, within=connection)`.
        schedules: Of all processes that declare a named schedule, one publishes each of its messages.
        max_size: Largest encoded message in bytes; None: no limit.
    """

    survives: Literal["nothing", "process", "server_restart", "power"] = "nothing"
    order: Literal["none", "subject", "key"] = "none"
    groups: bool = False
    exclusive_keys: bool = False
    delay: bool = False
    dedup_window: float = 0.0
    replay: bool = False
    objects: bool = False
    multi_process: bool = False
    dead_letters: bool = False
    memory: bool = False
    transactions: bool = False
    outbox: bool = False
    schedules: bool = False
    max_size: int | None = None

    def require(self, wanted: dict[str, Any], name: str, why: Callable[[str], str] = lambda capability: "") -> None:
        """
        Args:
            why: `Transport.shortcoming`.

        Raises:
            UnsupportedCapability: the text names every capability that is less than what is wanted.
        """
        problems = []
        if wanted.get("order") == "key" and wanted.get("groups"):
            wanted = {"exclusive_keys": True, **wanted}
        for key, value in wanted.items():
            if key not in self.__struct_fields__:
                known = ", ".join(self.__struct_fields__)
                raise UnsupportedCapability(f'require: there is no capability "{key}"; there are {known}')
            mine = getattr(self, key)
            if key == "survives":
                if value not in SURVIVES:
                    raise UnsupportedCapability(f"require: survives is one of {', '.join(SURVIVES)}, found {value!r}")
                enough = SURVIVES.index(mine) >= SURVIVES.index(value)
            elif isinstance(value, bool):
                enough = mine or not value
            elif key == "dedup_window":
                enough = mine >= value
            elif key == "max_size":
                enough = mine is None or mine >= value
            else:
                enough = value in (mine, "none") or (mine, value) == ("subject", "key")
            if not enough:
                problems.append(f"{key}={value!r} ({why(key) or f'it has {mine!r}'})")
        if problems:
            raise UnsupportedCapability(f'transport "{name}" cannot promise {", ".join(problems)}')
