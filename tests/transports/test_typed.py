"""Bodies of one type, whatever carries the messages: what a request expects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipebus import Bus, Message, RequestFailed, Subject
from pipebus.testing.contract.stage import UrlStage

WAIT = 10.0


@dataclass(frozen=True)
class Price:
    cents: int


PRICE = Subject[str, Price]("prices.get")


@pytest.fixture(params=["memory:", "memory:?wire=json", "sqlite", pytest.param("nats", marks=pytest.mark.thorough)])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """A bus on each engine, not yet started."""
    if request.param == "nats":
        pytest.importorskip("nats")
        stage = request.getfixturevalue("stage")
    else:
        stage = UrlStage(f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else request.param)
    yield stage.open()
    stage.wipe()


# --- requests ----------------------------------------------------------------------------------------------------------


def request(bus: Bus, item: str, **options: Any) -> Any:
    return bus.request(options.pop("subject", "prices.get"), item, timeout=WAIT, **options)


def arequest(bus: Bus, item: str, **options: Any) -> Any:
    return asyncio.run(bus.arequest(options.pop("subject", "prices.get"), item, timeout=WAIT, **options))


def answer(item: str) -> Any:
    return {"tea": Price(420), "honey": {"cents": "750"}}.get(item, item)


@pytest.mark.parametrize("said", [{"reply": Price}, {"subject": PRICE}], ids=["reply", "Subject[T, A]"])
@pytest.mark.parametrize("ask", [request, arequest])
def test_a_reply_is_of_the_expected_type(bus: Bus, ask: Callable[..., Message[Price]], said: dict[str, Any]) -> None:
    """An object that the handler returns, and a mapping that fits, arrive as that type; any other reply is an error."""
    bus.subscribe("prices.get", answer, name="prices")
    with bus:
        assert [ask(bus, item, **said).body for item in ("tea", "honey")] == [Price(420), Price(750)]
        with pytest.raises(RequestFailed, match="its reply is not of type Price: Input should be a dictionary"):
            ask(bus, "gold", **said)
