"""
Who may look. A bus shows bodies, errors and settings, so by default only programs and people on the same computer may: the
client's address is a loopback address, and so is the name in the Host header. The second condition is for browsers: a page
from elsewhere can give its own name the address 127.0.0.1 ("DNS rebinding"), but it cannot change the Host header.

A proxy on the same computer has a loopback address too, and forwards requests from anywhere; so what it forwards needs a token.
The same holds for a unix socket, where no address is known. With a token, nobody is let in without it, also from this computer.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from pipebus.errors import PipebusError
from pipebus.foreign.objects import visible

FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""Headers that proxies add."""
COOKIE_AGE: Final = 7 * 24 * 3600
"""Seconds for which a browser stays logged in."""


class Access:
    """
    Args:
        token: The secret that lets people in from anywhere; None: only from this computer.

    Raises:
        PipebusError: the token is empty, or not a text.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and (not isinstance(token, str) or not token.strip()):
            raise PipebusError(
                "the token of the page is empty; make one with `python -c 'import secrets; print(secrets.token_urlsafe())'`, "
                "or leave it out"
            )
        self._token = None if token is None else token.strip().encode()
        # The cookie is made from the token, so that it outlives a restart, and who reads it does not know the token. So is its
        # name: a browser sends the cookies of a computer to all ports of it, where other buses may have pages.
        self._cookie, self._name = (
            ("", "") if self._token is None else (self._sign("cookie"), f"pipebus_{self._sign('name')[:8]}")
        )

    def may_look(self, request: HTTPConnection) -> bool:
        """Whether this request may see everything."""
        try:
            self.check(request)
        except HTTPException:
            return False
        return True

    def check(self, request: HTTPConnection) -> None:
        """
        Raises:
            HTTPException: 401: it needs the token; 403: it must not be answered. The text says what to do.
        """
        self.check_origin(request)
        if self._token is None:
            check_local(request)
        elif not self._known(request):
            raise HTTPException(
                401, "this page needs its token: log in, or send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def check_page(self, request: HTTPConnection) -> None:
        """`check` for the files of the page itself, which hold no data: with a token, the form to log in is for everybody."""
        if self._token is None:
            check_local(request)

    def check_origin(self, request: HTTPConnection) -> None:
        """Refuse what a page of another site sends, as its browser says. A person who follows a link, and a program, pass."""
        site = request.headers.get("sec-fetch-site", "none")
        origin = request.headers.get("origin")
        host = request.headers.get("host", "")
        if site not in ("same-origin", "none") or (origin is not None and origin.partition("://")[2] != host):
            raise HTTPException(403, "only the page itself may ask this; another site has sent the request")

    def login(self, request: Request, given: object) -> Response:
        """
        Return a response that sets the cookie.

        Raises:
            HTTPException: 401: `given` is not the token.
        """
        if self._token is None:
            raise HTTPException(404, "no token is set, so there is nothing to log in to")
        if not isinstance(given, str) or not _same(given.strip(), self._token):
            raise HTTPException(401, "this is not the token")
        response = Response(status_code=204)
        response.set_cookie(
            self._name, self._cookie, max_age=COOKIE_AGE, path=request.scope.get("root_path", "") + "/",
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    def _known(self, request: HTTPConnection) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(given.strip(), self._token or b"", "latin-1")
        return _same(request.cookies.get(self._name, ""), self._cookie.encode())

    def _sign(self, what: str) -> str:
        return hmac.new(self._token or b"", f"pipebus page {what}".encode(), hashlib.sha256).hexdigest()


def _same(given: str, secret: bytes, encoding: str = "utf-8") -> bool:
    """Compare in a time that does not depend on how much of it is right."""
    return bool(secret) and hmac.compare_digest(given.encode(encoding, "replace"), secret)


def check_local(request: HTTPConnection) -> None:
    """
    Raises:
        HTTPException: 403: the request may come from another computer.
    """
    if request.client is None:
        raise _foreign("the address of the client is not known, as over a unix socket")
    if not is_loopback(request.client.host):
        raise _foreign(f"it was asked from {visible(request.client.host[:100])}")
    if (found := next((name for name in FORWARDED if name in request.headers), None)) is not None:
        raise _foreign(f"a proxy has sent the request, as the header {found} says")
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_name_in(hosts[0])):
        raise _foreign(f"it was asked for {visible(', '.join(hosts)[:100]) or 'no host'}, which is not a name of this computer")


def _foreign(why: str) -> HTTPException:
    return HTTPException(403, f"this page is for people on the same computer, but {why}; to show it to others, set a token")


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this computer and nothing else: localhost, 127.0.0.1, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> Any:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
