"""What the URL of a NATS server says, what it hides, and how our names become the server's."""

from __future__ import annotations

import pytest

pytest.importorskip("nats")

from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.errors import TransportError, UnsupportedCapability
from pipebus.message.patterns import Pattern
from pipebus.testing.contract.table import ROWS
from pipebus.transports.nats import NatsTransport
from pipebus.transports.nats.options import Options
from pipebus.transports.nats.subjects import Subjects, consumer_name, disjoint
from pipebus.transports.urls import redacted
from tables import table

SECRETS = ("hunter2", "s3cret")


def options(url: str) -> Options:
    return Options.from_url(url)


class TestOptions:
    """The URL's options mean what they say."""

    def test_a_url_says_where_and_how(self) -> None:
        """The URL gives the hosts of a cluster, the user and the stream."""
        found = options(
            "tls://ann:p%40ss@one:4223,two?stream=ORDERS&prefix=shop.eu&lease=10s&window=1m&replicas=3&max_bytes=1GiB"
        )
        assert found.hosts == ("one:4223", "two:4222")
        assert (found.user, found.password, found.token) == ("ann", "p@ss", None)
        assert (found.stream, found.prefix, found.lease, found.window) == ("ORDERS", "shop.eu", 10.0, 60.0)
        assert (found.replicas, found.max_bytes) == (3, 2**30)

    def test_what_stands_alone_before_the_at_is_a_token(self) -> None:
        """A single text before the @ is a token, as in every NATS URL."""
        assert (options("nats://s3cret@localhost").token, options("nats://s3cret@localhost").user) == ("s3cret", None)

    def test_tls_is_a_scheme_too(self) -> None:
        """The scheme tls:// means nats:// with TLS."""
        assert (options("tls://host").tls, options("nats://localhost").tls, options("nats://localhost?tls=yes").tls) == (
            True,
            False,
            True,
        )

    @table(
        "url",
        [
            "nats://localhost", "nats://127.0.0.1:4223", "nats://[::1]", "nats://broker?plaintext=yes", "tls://broker",
            "nats://broker?cafile=ca.pem",
        ],
    )  # fmt: skip
    def test_plain_text_stays_on_this_machine_unless_it_is_said(self, url: str) -> None:
        """A URL for another machine must choose TLS, or say that plain text is wanted."""
        assert options(url).encrypted == ("tls" in url or "cafile" in url)

    @table(
        ("url", "text"),
        [
            ("nats://", "no host"),
            ("nats://localhost:port", "not a host and port"),
            ("nats://localhost/path", '"/path" has no meaning'),
            ("nats://localhost#x", "what follows #"),
            ("nats://localhost?lease=soon", "lease="),
            ("nats://localhost?lease=1ms", "lease="),
            ("nats://localhost?leese=1s", '"leese" is unknown'),
            ("nats://localhost?lease=1s&lease=2s", "given twice"),
            ("nats://localhost?storage=tape", '"file" or "memory"'),
            ("nats://localhost?replicas=6", "1 to 5"),
            ("nats://localhost?events=xml", '"structured" or "binary"'),
            ("nats://localhost?core=maybe", '"yes" or "no"'),
            ("nats://localhost?stream=a.b", "stream="),
            ("nats://localhost?prefix=a..b", "prefix="),
            ("nats://localhost?prefix=", "subjects=orders"),
            ("nats://localhost?subjects=a.>", "empty prefix"),
            ("nats://localhost?prefix=&subjects=a..b", "empty token"),
            ("nats://localhost?key=k.pem", "without cert"),
            ("nats://u:p@localhost?creds=file", "say twice"),
            ("nats://localhost?retention=1s", "shorter than window"),
            ("nats://localhost?retention=never", "retention"),
            ("nats://localhost?cafile=", "path of a file"),
            ("nats://localhost?password=hunter2", '"password" is unknown'),
            ("nats://broker", "everybody could read .* tls:// instead of nats://, or plaintext=yes"),
            ("nats://localhost,broker", "on the way to broker:4222"),
            ("nats://localhost.example.com", "plaintext=yes"),
            ("nats://127.0.0.1.example.com", "plaintext=yes"),
            ("tls://broker?plaintext=yes", "contradict"),
        ],
    )
    def test_what_is_wrong_is_named_when_the_bus_is_made(self, url: str, text: str) -> None:
        """The bus finds the mistake without a server."""
        with pytest.raises(UnsupportedCapability, match=text):
            Bus(url)

    def test_promises_follow_the_url(self) -> None:
        """What is kept in memory does not outlive the server, and plain NATS keeps nothing."""
        kept, light, core = (
            engine_of(Bus(f"nats://localhost{rest}")).transport.capabilities for rest in ("", "?storage=memory", "?core=yes")
        )
        assert (kept.survives, light.survives, core.survives) == ("server_restart", "process", "nothing")
        assert (kept.dedup_window, core.dedup_window) == (120.0, 0.0)
        assert (kept.dead_letters, core.dead_letters) == (True, False)
        with pytest.raises(UnsupportedCapability, match="survives"):
            Bus("nats://localhost?storage=memory", require={"survives": "server_restart"})
        with pytest.raises(UnsupportedCapability, match="survives"):
            Bus("nats://localhost", require={"survives": "power"})


class TestSecrets:
    """No log shows a password."""

    @table(
        "url",
        [
            "nats://ann:hunter2@localhost", "nats://s3cret@localhost", "nats://ann:hunter2@one,two?stream=S", "nats://ann:hun@ter2@host",
            "nats://ann:s3cret/hunter2@localhost", "nats://ann:hunter2#s3cret@localhost?x=1", "nats://ann:hunter2?s3cret@localhost",
        ],
    )  # fmt: skip
    def test_a_redacted_url_has_no_secret(self, url: str) -> None:
        """This also holds where an @ or a / was not written as %40 or %2F."""
        assert not any(secret in redacted(url) for secret in (*SECRETS, "hun@", "ter2"))
        assert "***@" in redacted(url)

    def test_a_url_without_secrets_is_shown_as_it_is(self) -> None:
        """A URL without secrets hides nothing."""
        assert redacted("nats://one:1,two:2?stream=S") == "nats://one:1,two:2?stream=S"

    @pytest.mark.parametrize("place", ["ann:hunter2", "s3cret"])
    @pytest.mark.few(1)
    def test_errors_and_reprs_have_no_secret(self, place: str) -> None:
        """Neither an error about the URL nor one about an absent server shows a secret."""
        transport = NatsTransport.from_url(f"nats://{place}@127.0.0.1:9?connect_timeout=300ms")
        shown = [repr(transport), repr(transport.options), str(transport.options), transport.url, repr(transport.letters)]
        with pytest.raises(TransportError) as absent:
            Bus(f"nats://{place}@127.0.0.1:9?connect_timeout=300ms").start()
        with pytest.raises(UnsupportedCapability) as wrong:
            Bus(f"nats://{place}@host?x=1")
        for text in (*shown, str(absent.value), str(wrong.value)):
            assert not any(secret in text for secret in SECRETS)

    def test_a_bus_shows_no_secret(self) -> None:
        """Its repr, its description and its URL show no secret."""
        bus = Bus("nats://ann:hunter2@localhost")
        assert not any(secret in text for secret in SECRETS for text in (repr(bus), str(bus.describe()), bus.url))

    def test_nobody_there_says_what_was_tried_and_what_to_do(self) -> None:
        """A start does not wait forever for a server that is not there."""
        with pytest.raises(TransportError, match=r"127\.0\.0\.1:9 within 0\.3 s: .*start nats-server there"):
            Bus("nats://127.0.0.1:9?connect_timeout=300ms").start()


class TestNames:
    """Subjects and names have a form that the server accepts."""

    @pytest.mark.parametrize("prefix", ["shop", "a.b", ""])
    def test_a_subject_comes_back(self, prefix: str) -> None:
        """A subject stays the same on the way to the server and back, with a prefix or without one."""
        subjects = Subjects(options(f"nats://localhost?prefix={prefix}" + ("&subjects=x.>" if not prefix else "")))
        for _, subject, _ in ROWS:
            assert subjects.ours(subjects.theirs(subject)) == subject
        assert subjects.ours(subjects.theirs("_reply.7f.1")) == "_reply.7f.1"
        assert subjects.theirs("_reply._INBOX.x.y") == "_INBOX.x.y"

    def test_replies_and_dead_letters_are_not_in_the_stream_of_messages(self) -> None:
        """Their subjects begin in another way, so the stream of messages does not keep them."""
        subjects = Subjects(options("nats://localhost"))
        kept = Pattern(subjects.kept[0])
        for other in (subjects.theirs("_reply.7f.1"), f"{subjects.dead}s.d1", f"{subjects.notes}s.1", f"{subjects.replays}s"):
            assert not kept.matches(other)

    def test_consumer_names_are_the_servers_and_different(self) -> None:
        """The server accepts every consumer name, whatever the subscription's name is."""
        names = ["billing", "bill ing", "bill.ing", "bill*ing", "größe", "grösse", "", "x" * 300, "x" * 301, "bill_ing", "a/b"]
        names += [consumer_name(name) for name in names]  # a name that looks like one that was made is another's
        found = [consumer_name(name) for name in dict.fromkeys(names)]
        assert len(set(found)) == len(found)
        assert all(name and len(name) <= 64 and not set(name) & set(" .*>/\\") and name.isascii() for name in found)
        assert consumer_name("billing") == "billing"

    @table(
        ("patterns", "wanted"),
        [
            (["a", "b"], ["a", "b"]),
            (["a", "a"], ["a"]),
            (["orders.*", "orders.created"], ["orders.*"]),
            (["orders.>", "orders.*"], ["orders.>"]),
            (["orders.>", "*.created"], ["*.>"]),
            (["a.*", "*.b"], ["*.*"]),
            (["a.*", "*.b", "c.c"], ["*.*"]),
            (["a.*.c", "a.b.>"], ["a.*.>"]),
            (["a", "a.b"], ["a", "a.b"]),
            ([">", "a"], [">"]),
        ],
    )
    def test_filters_do_not_overlap(self, patterns: list[str], wanted: list[str]) -> None:
        """The server refuses overlapping filters, so one that covers both replaces them."""
        found = disjoint(tuple(Pattern(one) for one in patterns))
        assert sorted(one.text for one in found) == wanted
        assert not any(a.overlaps(b) for a in found for b in found if a is not b)
        assert all(any(one.covers(Pattern(text)) for one in found) for text in patterns)
