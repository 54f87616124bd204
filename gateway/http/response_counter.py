"""Counts HTTP responses by route, method and status. No other metric counts requests refused before
they reach an engine (400, 401, 413, 429, 503). Pure ASGI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from formgate.gateway.http.middleware import refusal_of

NO_ROUTE = "none"
NO_RESPONSE = 499  # nginx's number: the client left before there was one


class ResponseCounter:
    """Calls `count` at the end of each response with its route's template: one of `routes`, or
    NO_ROUTE."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Sequence[BaseRoute],
        count: Callable[[str, str, int], None],
    ) -> None:
        self._app = app
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = NO_RESPONSE

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except ClientDisconnect:  # while sending its body
            raise
        except Exception:
            if status == NO_RESPONSE:
                status = 500
            raise
        finally:
            status = refusal_of(scope) or status
            self._count(self._route_of(scope), scope["method"], status)

    def _route_of(self, scope: Scope) -> str:
        """The route's template, even if the request was refused before routing."""
        if isinstance(routed := scope.get("route"), Route):
            return routed.path
        found = NO_ROUTE
        for route in self._routes:
            match, _ = route.matches(scope)
            if match == Match.FULL:
                return route.path
            if match == Match.PARTIAL:  # a method that the route lacks
                found = route.path
        return found
