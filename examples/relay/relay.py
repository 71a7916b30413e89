"""What `pipebus.toml` next to this file cannot do by itself: one HTTP request for each event, and one line for each alert."""

import json
import os
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from pipebus import Message, Rejected

TRY_AGAIN = (408, 425, 429)


def send(message: Message) -> None:
    """
    POST an event to the sink, under its id, so that the sink can recognise one that comes again.

    Raises:
        OSError: no answer in time, or one that says "not now": another attempt makes sense.
        Rejected: the sink does not want this event, now or later.
    """
    url = urlsplit(os.environ.get("SINK_URL", "http://127.0.0.1:8081/events"))
    with closing(HTTPConnection(url.netloc, timeout=float(os.environ.get("SINK_TIMEOUT", "2")))) as sink:
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
        sink.request("POST", url.path, json.dumps(message.body), headers)
        status = sink.getresponse().status
    if status >= 500 or status in TRY_AGAIN:
        raise ConnectionError(f"the sink answers {status}")
    if status >= 300:
        raise Rejected(f"the sink answers {status}")


def alert(message: Message) -> None:
    """Call a person. (Something would be rung here.)"""
    print(f"alert: {message.body['id']} was not delivered: {message.headers['fallback']}", flush=True)
