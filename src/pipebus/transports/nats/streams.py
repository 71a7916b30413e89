"""What must exist on the server: the stream, the one of dead letters, and a consumer for each durable subscription."""

from __future__ import annotations

from typing import Any, Final

from nats.aio.client import Client

from pipebus.errors import TransportError
from pipebus.transports.nats.asking import WITHOUT_JETSTREAM, _Refused
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.options import Options
from pipebus.transports.nats.subjects import Subjects

NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
EXISTS: Final = (10058, 10148, 10105)
"""JetStream's error codes: there is a stream or consumer of that name already, with another configuration."""
RESUMED: Final = "pipebus: goes on behind what was settled"
"""The description of a consumer that was lost and made again."""
NANO: Final = 1_000_000_000


class Streams:
    def __init__(self, link: Link, options: Options, subjects: Subjects) -> None:
        self.link, self.options = link, options
        self.born: Any = None  # when the stream was made, and the last message number in it, as of the last `ensure`
        self.last = 0
        self.age = 0.0  # seconds for which the stream keeps messages; 0: forever
        self.delays = False  # it takes delayed messages
        self.largest = 0  # bytes of a message that the stream takes; 0: as many as the server
        self.name = options.stream
        self.dead = f"{options.stream}-DEAD"
        self._subjects = subjects

    async def ensure(self, client: Client) -> None:
        """
        Create what is missing, and check that what is there keeps what the URL promises.

        Raises:
            TransportError: it does not; the text says what to change.
        """
        wanted = self.wanted()
        found = await self._stream(client, wanted)
        self.judge(found["config"], wanted)
        self.delays = self._delays(found["config"]) == found["config"]
        self.born, self.last = found.get("created"), int(found["state"]["last_seq"])
        self.largest = max(0, found["config"].get("max_msg_size", 0))
        changed = self.changed(found["config"], wanted)
        if changed:
            await self.link.api(f"STREAM.UPDATE.{self.name}", {**found["config"], **changed}, client)
        self.age = {**found["config"], **changed}.get("max_age", 0) / NANO
        wanted |= {
            "name": self.dead,
            "subjects": [f"{self._subjects.dead}>", f"{self._subjects.notes}>"],
            "duplicate_window": 0,
            "max_age": 0,
            "max_bytes": -1,
            "max_msgs_per_subject": 1,
            "discard": "old",
        }
        there = (await self._stream(client, wanted))["config"]
        self._judge_storage(self.dead, there, wanted)
        changed = {}
        if there.get("num_replicas", 1) < wanted["num_replicas"]:
            changed["num_replicas"] = wanted["num_replicas"]
        missing = [one for one in wanted["subjects"] if one not in there["subjects"]]  # this URL has another prefix
        if missing:
            changed["subjects"] = [*there["subjects"], *missing]
        if changed:
            await self.link.api(f"STREAM.UPDATE.{self.dead}", {**there, **changed}, client)

    async def allow_delays(self) -> None:
        """
        Let the stream take delayed messages.

        Raises:
            TransportError: the server does not allow it, or is not there.
        """
        config = (await self.link.api(f"STREAM.INFO.{self.name}"))["config"]
        if self._delays(config) != config:
            await self.link.api(f"STREAM.UPDATE.{self.name}", self._delays(config))
        self.delays = True

    def _delays(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration of a stream that takes delayed messages, too."""
        later = f"{self._subjects.later}*"
        subjects = config["subjects"]
        return {**config, "subjects": subjects if later in subjects else [*subjects, later], "allow_msg_schedules": True}

    def wanted(self) -> dict[str, Any]:
        """The configuration of a new stream."""
        options = self.options
        return {
            "name": self.name,
            "subjects": [*self._subjects.kept, f"{self._subjects.replays}*"],
            "retention": "limits",
            "storage": options.storage,
            "num_replicas": options.replicas,
            "duplicate_window": int(options.window * NANO),
            "max_age": int((options.retention or 0) * NANO),
            "max_bytes": options.max_bytes or -1,
            # A full stream refuses messages: what somebody has not read yet is never deleted.
            "discard": "new" if options.max_bytes else "old",
            "allow_direct": True,
        }

    async def _stream(self, client: Client, config: dict[str, Any]) -> dict[str, Any]:
        """Find the stream of that name, or make it."""
        name = config["name"]
        try:
            return await self.link.api(f"STREAM.INFO.{name}", None, client)
        except _Refused as error:
            if not error.code:
                raise TransportError(f"{error}; {WITHOUT_JETSTREAM}") from None
            if error.code != NO_STREAM:
                raise
        try:
            return await self.link.api(f"STREAM.CREATE.{name}", config, client)
        except _Refused as error:
            if error.code not in EXISTS:  # otherwise another program was quicker
                raise TransportError(f"stream {name} cannot be made: {error}") from None
        return await self.link.api(f"STREAM.INFO.{name}", None, client)

    def judge(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        """
        Raises:
            TransportError: the stream promises less than the URL, and the URL does not ask to change that, or cannot.
        """
        name, stated = self.name, self.options.stated

        def less(what: str, remedy: str) -> TransportError:
            return self._less(name, what, remedy)

        if there.get("retention") == "workqueue":
            raise less("is a work queue, which one subscription empties for all", "say stream= for one of its own")
        if there.get("retention") == "interest":
            raise less("deletes what nobody is subscribed to, or all have acknowledged", "say stream= for one of its own")
        if there.get("no_ack"):
            raise less("confirms nothing (no_ack)", "say stream= for one of its own")
        self._judge_storage(name, there, wanted)
        if there.get("duplicate_window", 0) < wanted["duplicate_window"] and "window" not in stated:
            seconds = there.get("duplicate_window", 0) / NANO
            raise less(f"recognises a second publish for {seconds:g} s only", f"say window={seconds:g}s, or more to change it")
        age = there.get("max_age", 0)
        if age and "retention" not in stated and not 0 < wanted["max_age"] <= age:
            raise less(f"deletes after {age / NANO:g} s what nobody has read", f"say retention={age / NANO:g}s")
        limited = there.get("max_bytes", -1) > 0 or there.get("max_msgs", -1) > 0 or there.get("max_msgs_per_subject", -1) > 0
        if limited and there.get("discard") != "new" and "max_bytes" not in stated:
            raise less("deletes the oldest when it is full, read or not", "say max_bytes=, which makes it refuse what is new")

    def _judge_storage(self, name: str, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        if there.get("storage") == "memory" and wanted["storage"] == "file":
            raise self._less(
                name, "keeps messages in memory, until the server ends", "say storage=memory, or stream= for another one"
            )

    def _less(self, name: str, what: str, remedy: str) -> TransportError:
        return TransportError(f"stream {name} on {self.options} {what}, so it cannot promise what this URL does; {remedy}")

    def changed(self, there: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        """Settings that the URL states and the stream has not; but more replicas than stated are kept."""
        names = {
            "window": "duplicate_window", "retention": "max_age", "max_bytes": "max_bytes", "replicas": "num_replicas",
        }  # fmt: skip
        changed = {
            theirs: wanted[theirs]
            for ours, theirs in names.items()
            if ours in self.options.stated and there.get(theirs) != wanted[theirs]
        }
        if there.get("num_replicas", 1) > wanted["num_replicas"]:
            changed.pop("num_replicas", None)
        if "max_bytes" in self.options.stated and there.get("discard") != "new":
            changed["discard"] = "new"
        missing = [one for one in wanted["subjects"] if one not in there.get("subjects", [])]
        if missing:
            changed["subjects"] = [*there.get("subjects", []), *missing]
        return changed

    async def consumer(self, name: str, filters: list[str], start: str | int, client: Client | None = None) -> dict[str, Any]:
        """
        Find or make the durable consumer of that name, with these filters. Returns what the server reports of it.

        Args:
            start: Where a new one begins: "new", "all" or "last"; or the number of its first message, for one that was lost.
        """
        there, made = await self._there(name, filters, start, client)
        if made:
            return there
        replays = f"{self._subjects.replays}{name}"
        filters = [*filters, replays]
        wait = int(self.options.lease * NANO)
        config = there["config"]
        if config.get("ack_policy") != "explicit" or config.get("deliver_subject"):
            raise TransportError(
                f"consumer {name} of stream {self.name} is another program's (it is not a pull consumer with explicit "
                "acknowledgements); give the subscription another name"
            )
        if any(one.endswith(f"-replay.{name}") and one != replays for one in config.get("filter_subjects") or []):
            raise TransportError(
                f"consumer {name} of stream {self.name} is another program's, with another prefix; say stream= for one of its "
                "own, or give the subscription another name"
            )
        mine = sorted(config.get("filter_subjects") or [config.get("filter_subject", "")])
        if mine != sorted(filters) or config.get("ack_wait") != wait or config.get("max_deliver", -1) != -1:
            config.pop("filter_subject", None)
            config |= {"filter_subjects": filters, "ack_wait": wait, "max_deliver": -1}
            return await self._create(name, config, "update", client)
        return there

    async def announce(self, name: str, filters: list[str], start: str) -> None:
        """Make a consumer, unless it is there."""
        await self._there(name, filters, start, None)

    async def remove(self, name: str, client: Client) -> None:
        """Delete a consumer that another program has put in the place of ours."""
        try:
            await self.link.api(f"CONSUMER.DELETE.{self.name}.{name}", None, client)
        except _Refused as error:
            if error.code != NO_CONSUMER:
                raise

    async def _there(
        self, name: str, filters: list[str], start: str | int, client: Client | None
    ) -> tuple[dict[str, Any], bool]:
        """What the server reports of a consumer, and whether it was made just now."""
        place = f"CONSUMER.INFO.{self.name}.{name}"
        try:
            return await self.link.api(place, None, client), False
        except _Refused as error:
            if error.code != NO_CONSUMER:
                raise
        filters = [*filters, f"{self._subjects.replays}{name}"]
        config: dict[str, Any] = {
            "durable_name": name,
            "name": name,
            "ack_policy": "explicit",
            "ack_wait": int(self.options.lease * NANO),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "filter_subjects": filters,
            "replay_policy": "instant",
            "deliver_policy": start,
        }
        if isinstance(start, int):
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start, "description": RESUMED}
        if start == "last":
            config |= await self._from_last(filters)
        try:
            made = await self._create(name, config, "create", client)
        except _Refused as error:
            if error.code not in EXISTS:  # otherwise another program was quicker
                raise
            return await self.link.api(place, None, client), False
        if not isinstance(start, int):  # notes of an older consumer of this name are about other messages
            await self.link.api(f"STREAM.PURGE.{self.dead}", {"filter": f"{self._subjects.notes}{name}.*"}, client)
        return made, True

    async def _create(self, name: str, config: dict[str, Any], action: str, client: Client | None) -> dict[str, Any]:
        body = {"stream_name": self.name, "config": config, "action": action}
        return await self.link.api(f"CONSUMER.CREATE.{self.name}.{name}", body, client)

    async def _from_last(self, filters: list[str]) -> dict[str, Any]:
        """Begin with the last message that any filter matches; the server by itself would take the last one of each filter."""
        last = 0
        for one in filters:
            try:
                found = await self.link.api(f"STREAM.MSG.GET.{self.name}", {"last_by_subj": one})
            except _Refused:
                continue
            last = max(last, int(found["message"]["seq"]))
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": last} if last else {"deliver_policy": "all"}

    async def info(self, name: str, client: Client | None = None) -> dict[str, Any]:
        """What the server reports of a consumer."""
        return await self.link.api(f"CONSUMER.INFO.{self.name}.{name}", None, client)
