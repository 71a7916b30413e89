"""
The last slot of each schedule, in the stream of dead letters: one record for each schedule; a new one replaces the old.

The message of a slot is published first, and then the slot is recorded, if no later one is. A process that is killed between
the two leaves a message whose id the server recognises for the window of the URL: another process that publishes the slot
learns that, and records it. Only if no process is there for that long, and the next start publishes what was missed, the slot
comes again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from pipebus.errors import TransportError
from pipebus.message.slot import Slot
from pipebus.transports.nats.asking import _Refused
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.streams import NO_STREAM
from pipebus.transports.nats.subjects import consumer_name

NO_MESSAGE: Final = 10037
CHANGED: Final = (10071, 10164)
"""JetStream's error codes: another process has written the record meanwhile."""


class Slots:
    """
    Args:
        stream: That of the dead letters.
        places: How the subjects of the records begin. They have more tokens than notes of attempts, so none can be both.
    """

    def __init__(self, stream: str, places: str) -> None:
        self._stream, self._places = stream, places

    def _place(self, name: str) -> str:
        return f"{self._places}{consumer_name(name)}"

    async def last(self, link: Link, name: str) -> Slot | None:
        found, _ = await self._read(link, {"last_by_subj": self._place(name)})
        return found

    async def record(self, link: Link, slot: Slot) -> bool:
        """Record a slot. False: this slot or a later one is recorded."""
        place, data = self._place(slot.schedule), json.dumps(slot._asdict()).encode()
        while True:
            found, number = await self._read(link, {"last_by_subj": place})
            if found is not None and found.time >= slot.time:
                return False
            answer = await link.ask(place, data, {"Nats-Expected-Last-Subject-Sequence": str(number)})
            error = json.loads(answer.data).get("error")
            if error is None:
                return True
            if error.get("err_code") not in CHANGED:
                raise TransportError(f"slot {slot.id} cannot be recorded: {error.get('description')}")

    async def forget(self, link: Link, name: str) -> bool:
        """Forget a schedule. False: there is none of this name."""
        found = await self.last(link, name)
        if found is not None:
            await link.api(f"STREAM.PURGE.{self._stream}", {"filter": self._place(name)})
        return found is not None

    async def every(self, link: Link) -> list[Slot]:
        return sorted([slot async for slot in self._all(link)])

    async def _all(self, link: Link) -> AsyncIterator[Slot]:
        found, number = await self._read(link, {"seq": 1, "next_by_subj": f"{self._places}*"})
        while found is not None:
            yield found
            found, number = await self._read(link, {"seq": number + 1, "next_by_subj": f"{self._places}*"})

    async def _read(self, link: Link, query: dict[str, Any]) -> tuple[Slot | None, int]:
        """A record, and its number in the stream; 0: there is none. It asks the leader, since the others may be behind."""
        try:
            found = (await link.api(f"STREAM.MSG.GET.{self._stream}", query))["message"]
        except _Refused as error:
            if error.code in (NO_MESSAGE, NO_STREAM):
                return None, 0
            raise
        return Slot(**json.loads(base64.b64decode(found["data"]))), int(found["seq"])
