"""What `serve` mounts beside `/mcp`: the operator API and the console, around one running gateway."""

from collections.abc import Mapping
from typing import Any, cast

from gateway.console.access import CONSOLE, Access
from gateway.console.api import PREFIX, Surroundings, api
from gateway.console.pages import BASE, console
from gateway.console.replies import Records, Replies
from gateway.decide.hold import Operator
from gateway.edge.security import Asgi


class Site:
    """The operators' side of one gateway.

    Args:
        unnamed: who may decide where there are no `[operators]`; `console` is put in with the one-time link.
    """

    def __init__(self, around: Surroundings, *, journal: Records, unnamed: list[Operator]) -> None:
        self._around, self._unnamed = around, unnamed
        self.access = Access()
        self._replies = Replies(
            acts=around.acts,
            configuration=around.configuration,
            journal=journal,
            events=around.events,
            clock=around.clock,
        )

    def routes(self) -> Mapping[str, Asgi]:
        """The applications by path, for `edge.http.application`."""
        served: Any = {f"{PREFIX}/": api(self._around, self._replies), f"{BASE}/": console(self._around, self.access)}
        return cast(Mapping[str, Asgi], served)

    def one_time_link(self) -> str:
        """Path and query of a link that opens the console once; from now on `console` is somebody who may decide."""
        if CONSOLE not in self._unnamed:
            self._unnamed.append(CONSOLE)
        return f"{BASE}/open?token={self.access.new_link()}"

    def close(self) -> None:
        """End what would go on by itself: event streams."""
        self._around.feed.close()
