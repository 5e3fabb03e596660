"""stub"""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.console.access import Access
from gateway.console.api import Surroundings

BASE = "/console"


def console(around: Surroundings, access: Access) -> ASGIApp:
    """stub"""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("", status_code=404)(scope, receive, send)

    return app
