"""
The door: an ASGI application that makes a message of each request, and answers when the message is in the store.

    pip install starlette uvicorn
    cd examples/relay && uvicorn receiver:app
"""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipebus import Bus, Message, MessageError, PipebusError, Rejected
from pipebus.asgi import lifespan

bus = Bus.from_config(Path(__file__).with_name("pipebus.toml"), allow_imports=["relay"])


async def receive(request: Request) -> Response:
    """202: it is kept, now or since before. 400: the sender has to change it. 503: the sender may send it again later."""
    given = request.headers
    try:
        headers = {"signature": given["signature"]}
        subject, at = f"events.{request.path_params['sender']}", float(given["request-time"])
        await bus.asend(Message(subject, await request.json(), headers, id=given["request-id"], time=at))
    except (Rejected, MessageError, KeyError, ValueError, RecursionError):  # no word about why: the sender may be anybody
        return Response(status_code=400)
    except PipebusError:  # no room, the store fails, the bus stops
        return Response(status_code=503)
    return Response(status_code=202)


app = Starlette(routes=[Route("/{sender}", receive, methods=["POST"])], lifespan=lifespan(bus))
