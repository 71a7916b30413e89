"""
What `pipebus doctor` says about a server: its version, what this user may do there, the streams and the consumers.

Nothing is made, changed or published.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client

from pipebus.errors import PipebusError, SubjectError, TransportError
from pipebus.message.patterns import Pattern
from pipebus.transports.base import Finding
from pipebus.transports.nats.asking import WITHOUT_JETSTREAM, _Refused
from pipebus.transports.nats.later import DELAYING
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.streams import NANO, NO_STREAM

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

OLDEST: Final = (2, 10, 0)
"""Consumers of older servers have one filter only."""
SPOOFED: Final = (((2, 11, 15), (2, 12, 0)), ((2, 12, 6), (2, 13, 0)))
"""In versions outside of these ranges, and before the last, `Nats-Request-Info` can be forged (CVE-2026-33223)."""
LOSING: Final = ((2, 12, 3), (2, 12, 4))
"""Versions that lost messages of consumers with a `max_deliver`, in work-queue streams with three replicas."""
SLOW: Final = 0.05
"""Seconds of a round trip, which an awaited publish takes at least."""
SKEW: Final = 1.0
"""Seconds between two clocks that matter for a message's `ttl`."""
NEARLY: Final = 0.8
"""Share of a limit."""


async def examine(transport: NatsTransport, link: Link) -> list[Finding]:
    """All findings. On the loop."""
    client = link.client
    if client is None:
        raise TransportError("the connection is lost")
    found = [*_server(transport, client)]
    found += await _user(transport, link, client)
    if not transport.options.core:
        found += _delays(client)
        found += await _jetstream(transport, link)
    return found


def version_of(text: str) -> tuple[int, int, int]:
    """(0, 0, 0) if the text is not a version."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)


# --- the server ------------------------------------------------------------------------------------------------------------


def _server(transport: NatsTransport, client: Client) -> Iterator[Finding]:
    options = transport.options
    info: dict[str, Any] = client._server_info
    yield judge_version(str(info.get("version", "")))
    if options.encrypted:
        yield Finding("ok", "encryption", "TLS; the server's certificate was checked")
    elif options.plaintext:
        yield Finding(
            "hint", "encryption", "none (plaintext=yes): everybody on the way reads messages and passwords; tls:// encrypts"
        )
    else:
        yield Finding("ok", "encryption", "none; the server is on this machine")
    if not (info.get("auth_required") or options.encrypted):
        yield Finding(
            "hint", "login", "none: anyone who reaches this server can read and write everything; give it users or tokens"
        )
    others = [one for one in info.get("connect_urls") or [] if one not in options.hosts]
    if info.get("cluster") and len(options.hosts) == 1 and others:
        yield Finding(
            "hint", "servers",
            f"the URL names one server of a cluster: while that one is away no program can start; name {', '.join(others)} too",
        )  # fmt: skip
    yield Finding("ok", "largest message", f"{client.max_payload:,} bytes, with headers (max_payload)")


def judge_version(text: str) -> Finding:
    """Judge a version of the server."""
    version = version_of(text)
    least = ".".join(map(str, OLDEST))
    if version < OLDEST:
        return Finding(
            "wrong", "server", f"{text or 'of no version'}: at least {least} is needed, for consumers of several subjects"
        )
    if version in LOSING:
        return Finding(
            "hint", "server",
            f"{text}: work-queue streams of three replicas lost messages of consumers with max_deliver here. pipebus makes "
            "neither; update it if other programs do",
        )  # fmt: skip
    if version < SPOOFED[-1][0] and not any(first <= version < end for first, end in SPOOFED):
        return Finding(
            "hint", "server",
            f"{text}: the header Nats-Request-Info can be forged (CVE-2026-33223). pipebus takes no such header over; update "
            "to 2.11.15, 2.12.6 or later if other programs trust it",
        )  # fmt: skip
    return Finding("ok", "server", text)


def _delays(client: Client) -> Iterator[Finding]:
    version = str(client._server_info.get("version", ""))
    if version_of(version) < DELAYING:
        least = ".".join(map(str, DELAYING))
        yield Finding("hint", "delays", f"refused: {version} delays no messages; update the server to {least} or newer")


# --- what this user may do -------------------------------------------------------------------------------------------------


async def _user(transport: NatsTransport, link: Link, client: Client) -> list[Finding]:
    began = time.perf_counter()
    await client.flush()
    trip = (time.perf_counter() - began) / 2  # `flush` asks twice
    about = f"{trip * 1000:.1f} ms there and back"
    slow = Finding("hint", "distance", f"{about}: publish many at once, each awaited publish takes that long")
    found = [slow if trip > SLOW else Finding("ok", "distance", about)]
    try:
        said = json.loads((await link.ask("$SYS.REQ.USER.INFO", timeout=2.0)).data)
        data, there = said["data"], said["server"].get("time", "")
    except (PipebusError, KeyError, TypeError, ValueError):
        found.append(
            Finding("hint", "permissions", 'unknown: this user may not ask ("$SYS.REQ.USER.INFO"); refusals show at the start')
        )
        return found
    found += _clock(there)
    name = f"user {data['user']}" if data.get("user") else "everybody"
    missing = [*refused(needed(transport), data.get("permissions") or {})]
    if missing:
        found.append(
            Finding("wrong", "permissions", f"{name} may not {'; not '.join(missing)}; allow it in the server's configuration")
        )
    else:
        found.append(
            Finding(
                "ok", "permissions", f"{name}, account {data.get('account_name') or data.get('account')}: all that is needed"
            )
        )
    return found


def _clock(there: str) -> Iterator[Finding]:
    """Compare the server's clock with ours. Its text has more digits than Python reads."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?)\d*Z$", there)
    if found is None:
        return
    skew = time.time() - datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
    if abs(skew) > SKEW:
        text = f"this machine's is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
        yield Finding("hint", "clock", f"{text}: a message's ttl is wrong by that; set both by the same time server")


def needed(transport: NatsTransport) -> dict[str, list[str]]:
    """The server's subjects on which this user must be allowed to publish and to subscribe."""
    subjects, streams = transport.subjects, (transport.options.stream, f"{transport.options.stream}-DEAD")
    both = [*subjects.kept, f"{subjects.replies}>", f"{subjects.here}*"]
    publish, subscribe = [*both, "_INBOX.>"], [*both, "_INBOX.>"]
    if not transport.options.core:
        publish += [f"{subjects.dead}>", f"{subjects.notes}>", f"{subjects.replays}*", f"{subjects.later}*", "$JS.API.INFO"]
        for one in streams:
            publish += [f"$JS.API.STREAM.{verb}.{one}" for verb in ("INFO", "CREATE", "UPDATE")]
        mine, dead = streams
        publish += [f"$JS.API.CONSUMER.{verb}.{mine}.*" for verb in ("INFO", "CREATE", "DELETE")]
        publish += [f"$JS.API.CONSUMER.LIST.{mine}", f"$JS.API.CONSUMER.MSG.NEXT.{mine}.*", f"$JS.ACK.{mine}.>"]
        publish += [
            f"$JS.API.STREAM.MSG.DELETE.{dead}",
            f"$JS.API.STREAM.PURGE.{dead}",
            f"$JS.API.DIRECT.GET.{dead}",
            f"$JS.API.DIRECT.GET.{dead}.>",
        ]
        publish += [f"$JS.API.STREAM.MSG.GET.{mine}"]
        subscribe += [f"$JS.EVENT.ADVISORY.CONSUMER.*.{mine}.*"]
    return {"publish": publish, "subscribe": subscribe}


def _rules(texts: list[str]) -> list[Pattern]:
    """Rules as patterns; without their queue groups, and without those that none of our subjects can match."""
    found = []
    for text in texts:
        with suppress(SubjectError):
            found.append(Pattern(text.split()[0]))
    return found


def refused(wanted: dict[str, list[str]], permissions: dict[str, Any]) -> Iterator[str]:
    """What is needed and not allowed, as in "publish on orders.>"."""
    for verb, subjects in wanted.items():
        rules = permissions.get(verb) or {}
        allow, deny = _rules(rules.get("allow") or [">"]), _rules(rules.get("deny") or [])
        lacking = [
            one for one in subjects
            if not any(rule.covers(Pattern(one)) for rule in allow) or any(rule.overlaps(Pattern(one)) for rule in deny)
        ]  # fmt: skip
        if lacking:
            yield f"{verb} on {', '.join(lacking)}"


# --- streams and consumers -------------------------------------------------------------------------------------------------


async def _jetstream(transport: NatsTransport, link: Link) -> list[Finding]:
    try:
        account = await link.api("INFO")
    except _Refused as error:
        return [Finding("wrong", "JetStream", f"{error}; {WITHOUT_JETSTREAM}")]
    except TransportError as error:
        return [Finding("wrong", "JetStream", str(error))]
    found = [*_account(account, transport.options.storage)]
    streams = transport.streams_on(link)
    try:
        there = await link.api(f"STREAM.INFO.{streams.name}")
    except _Refused as error:
        if error.code != NO_STREAM:
            return [*found, Finding("wrong", f"stream {streams.name}", str(error))]
        return [*found, Finding("hint", f"stream {streams.name}", "is not there yet; the first bus that uses it makes it")]
    about = f"stream {streams.name}"
    found += _stream(about, there)
    wanted = streams.wanted()
    try:
        streams.judge(there["config"], wanted)
    except TransportError as error:
        found.append(Finding("wrong", about, str(error)))
    else:
        changed = ", ".join(streams.changed(there["config"], wanted))
        if changed:
            found.append(Finding("hint", about, f"the next bus that starts with this URL changes its {changed}"))
    try:
        letters = await transport.letters.count(link)
        found.append(Finding("ok", "dead letters", f"{letters:,}"))
        for one in await consumers(link, streams.name):
            found += _consumer(one, transport.options.lease)
    except PipebusError as error:
        found.append(Finding("wrong", about, str(error)))
    return found


def _account(account: dict[str, Any], storage: str) -> Iterator[Finding]:
    tier = next(iter((account.get("tiers") or {}).values()), account)
    limits = tier.get("limits") or {}
    kind = "storage" if storage == "file" else "memory"
    used, most = tier.get(kind, 0), limits.get(f"max_{kind}", -1)
    text = f"{used:,} bytes of {kind} used" + (f", of {most:,}" if most > 0 else "")
    if most > 0 and used > NEARLY * most:
        yield Finding("hint", "JetStream", f"{text}: when that is full nothing can be published; make room, or raise the limit")
    else:
        yield Finding("ok", "JetStream", text)
    for what in ("streams", "consumers"):
        count, most = tier.get(what, 0), limits.get(f"max_{what}", -1)
        if most > 0 and count >= most:
            yield Finding("hint", "JetStream", f"{count} of {most} {what}: no further one can be made")


def _stream(about: str, there: dict[str, Any]) -> Iterator[Finding]:
    config, state = there["config"], there["state"]
    copies, age = config.get("num_replicas", 1), config.get("max_age", 0) / NANO
    kept = f"for {age:,.0f} s" if age else "forever"
    yield Finding(
        "ok", about,
        f"{state['messages']:,} messages, {state['bytes']:,} bytes, on {', '.join(config.get('subjects') or ['nothing'])}; "
        f"{config.get('storage')}, {copies} replica{'' if copies == 1 else 's'}; kept {kept}",
    )  # fmt: skip
    if config.get("storage") == "memory":
        yield Finding("hint", about, "is in memory: its messages are lost when the server ends")
    elif copies == 1:
        yield Finding(
            "hint", about,
            "a publish is confirmed before the disk has it: a power cut of the server takes what came since its last sync (2 "
            "minutes by default; sync_interval in its configuration); three replicas outlive the loss of one server",
        )  # fmt: skip
    cluster = there.get("cluster") or {}
    late = [one["name"] for one in cluster.get("replicas") or [] if not one.get("current") or one.get("offline")]
    if late:
        yield Finding(
            "wrong", about, f"replicas on {', '.join(late)} are away or behind: if another server is lost, the stream stops"
        )
    if cluster and not cluster.get("leader"):
        yield Finding("wrong", about, "has no leader: too many of its servers are away; nothing can be published")
    for limit, used in (("max_bytes", "bytes"), ("max_msgs", "messages")):
        most = config.get(limit, -1)
        if most > 0 and state[used] > NEARLY * most:
            what = "is refused" if config.get("discard") == "new" else "takes the place of the oldest, read or not"
            yield Finding(
                "hint", about, f"{state[used]:,} of {most:,} {used} ({limit}): when it is full, what is published {what}"
            )


async def consumers(link: Link, stream: str) -> list[dict[str, Any]]:
    """What the server reports about each consumer, by name."""
    found: list[dict[str, Any]] = []
    total = 1
    while len(found) < total:
        page = await link.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        total = page["total"]
        if not page.get("consumers"):
            break
        found += page["consumers"]
    return sorted(found, key=lambda one: str(one["name"]))


def _consumer(there: dict[str, Any], lease: float) -> Iterator[Finding]:
    config = there["config"]
    about = f"consumer {there['name']}"
    pending, out, asked = there["num_pending"], there["num_ack_pending"], there.get("num_waiting", 0)
    text = f"{pending:,} pending, {out:,} in flight"
    if config.get("ack_policy") != "explicit" or config.get("deliver_subject"):
        yield Finding("hint", about, f"{text}; another program's: it is not a pull consumer with explicit acknowledgements")
        return
    if there.get("paused"):
        yield Finding("wrong", about, f"{text}; paused until {config.get('pause_until')}: nothing is delivered before that")
    elif pending and not asked and not out:
        yield Finding("hint", about, f"{text}; nobody asks for them: start a program that serves it")
    else:
        yield Finding("ok", about, text)
    if config.get("max_deliver", -1) > 0:
        yield Finding(
            "wrong", about,
            f"max_deliver={config['max_deliver']}: after so many deliveries a message is neither delivered again nor a dead "
            "letter; a bus that serves the consumer removes that limit",
        )  # fmt: skip
    if config.get("max_ack_pending", -1) > 0:
        yield Finding(
            "hint", about,
            f"max_ack_pending={config['max_ack_pending']:,} for all workers together: with so many in flight, nobody gets more",
        )  # fmt: skip
    wait = config.get("ack_wait", 0) / NANO
    if wait != lease:
        yield Finding(
            "hint", about, f"its lease is {wait:g} s; a bus with this URL sets it to {lease:g} s for all programs that serve it"
        )
