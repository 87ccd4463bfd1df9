"""Who may call: hosts, origins, the token, and how often. What goes out says how browsers may use it."""

import hashlib
import hmac
import ipaddress
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gen3r_jax.serve.options import LOOPBACK, Limits, ServeOptions

COOKIE = "gen3r"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
VIEWER_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; frame-ancestors 'self'"
)
"""A scene's own page: it has no origin, so it can ask this server for nothing."""

MOST_ADDRESSES = 10_000
"""Addresses whose requests are counted at the same time."""

_OPEN = ("/", "/healthz", "/v1/login")
"""What needs no token; beside it the page's own files."""


class Guard:
    """Refuses requests before anything is read of them, as JSON with the reason."""

    def __init__(self, app: ASGIApp, options: ServeOptions, count: Callable[[str, int], None]):
        self._app, self._token, self._count = app, options.token, count
        self._loopback = options.host in LOOPBACK
        self._names = {name.lower() for name in (*options.names, "localhost")}
        if not self._loopback:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        app = self._refusal(scope) or self._app

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope["method"], message["status"])
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", PAGE_POLICY)
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
            await send(message)

        await app(scope, receive, with_policy)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _answer(403, "this server is not called by that Host; start it with --name HOST to allow one")
        if (origin := headers.get("origin")) is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            return _answer(403, "requests from pages of another Origin are refused")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return _answer(403, "requests from pages of another site are refused")
        path = scope["path"]
        if self._token and path not in _OPEN and not path.startswith("/page/") and not self.knows(headers):
            return _answer(401, "send the token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return None

    def knows(self, headers: Headers) -> bool:
        """Whether a request has the token, as a header or as the cookie of :func:`cookie_of`."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, cookie_of(self._token))

    def _is_ours(self, host: str) -> bool:
        """Names could be made to lead here by somebody else; addresses could not."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif ":" in name:
            name, _, port = name.rpartition(":")
            if not port.isdecimal():
                return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


class Rate:
    """How often an address may ask for something to be made: a bucket of tokens each."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._most, self._a_second, self._clock = limits.burst, limits.a_minute / 60, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Counts a request; seconds until the next one is allowed if this one is not, else 0."""
        now = self._clock()
        left, then = self._buckets.pop(address, (float(self._most), now))
        left = min(self._most, left + (now - then) * self._a_second)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else math.ceil((1 - left) / self._a_second)


def same(given: str, wanted: str) -> bool:
    """Compares in a time that does not tell how much is right."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, wanted))
    return hmac.compare_digest(*digests)


def cookie_of(token: str) -> str:
    """What a browser keeps instead of the token."""
    return hmac.new(token.encode(), b"gen3r serve", hashlib.sha256).hexdigest()


def _answer(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error}, status, headers)
