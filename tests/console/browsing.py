"""A person at the console without a browser: cookies are kept, forms are read from the page and sent back."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.console.serving import KEYS, Answer, Served


@dataclass(kw_only=True)
class Person:
    """Keeps the cookies of one served console."""

    served: Served
    cookies: dict[str, str] = field(default_factory=dict)
    page: Answer = field(default_factory=lambda: Answer(status=0, headers={}, text=""))

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        sent = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
        return await self._ask("POST", path, urlencode(fields).encode(), sent)

    async def login(self, who: str) -> Answer:
        await self.get("/console/login")
        return await self.post("/console/login", {"token": self.token, "key": KEYS[who]})

    @property
    def token(self) -> str:
        """The form token of the last page."""
        found = re.search(r'name="token" value="([^"]+)"', self.page.text)
        assert found is not None, self.page.text[:2000]
        return html.unescape(found[1])

    def hidden(self, name: str) -> str:
        """A hidden field of the last page."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page.text)
        assert found is not None, name
        return html.unescape(found[1])

    async def _ask(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None) -> Answer:
        sent = dict(headers or {})
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.served.client.request(
            method, self.served.base + path, data=data, headers=sent, allow_redirects=False
        ) as answer:
            for name, morsel in answer.cookies.items():
                if morsel.value in ("", '""'):
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
            self.page = Answer(
                status=answer.status,
                headers={name.lower(): ", ".join(answer.headers.getall(name)) for name in answer.headers},
                text=await answer.text(),
            )
        return self.page
