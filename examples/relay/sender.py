"""
Another company's program: it signs events and posts them to the receiver.

    RELAY_KEY=… python examples/relay/sender.py acme 100       # a hundred events
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

from pydantic import SecretStr

from pipebus import Message
from pipebus.filters import Sign


def signed(sender: str, event: Any, key: str, **fields: Any) -> Message:
    """An event as a signed message: with an id and a time of its own, also if the event is sent again."""
    return Sign(SecretStr(key)).transform(Message(f"events.{sender}", event, **fields))


def request_of(message: Message) -> tuple[str, dict[str, str], str]:
    """The path, the headers and the body of the request that carries a message."""
    headers = {**message.headers, "request-id": message.id, "request-time": repr(message.time)}
    return "/" + message.subject.removeprefix("events."), headers, json.dumps(message.body)


def post(connection: HTTPConnection, message: Message) -> int:
    """Send a message; returns the status of the answer."""
    path, headers, data = request_of(message)
    connection.request("POST", path, data, headers)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def events(sender: str, count: int) -> Iterator[Any]:
    for number in range(count):
        yield {"id": f"{sender}-{number}", "total": 4 * number, "customer": {"email": "ada@example.org"}}


if __name__ == "__main__":
    sender, count = sys.argv[1], int(sys.argv[2])
    with closing(HTTPConnection("127.0.0.1:8000")) as receiver:
        answers = [post(receiver, signed(sender, event, os.environ["RELAY_KEY"])) for event in events(sender, count)]
    print(f"{answers.count(202)} of {count} accepted")
