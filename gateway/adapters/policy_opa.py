"""The port `PolicyEngine` on an OPA server, through `opa-python-client`.

Theory of operation
-------------------
The client's own defaults are made for scripts. Here: no retries (a retry repeats the policy's own errors, and the call
waits for it), our deadline, builtin errors are errors and not undefined, at most sixteen questions in flight, redirects
are not followed (another host must not decide), and a policy is never rewritten on its way. What OPA answers without a
`result` is undefined; `{}` is not. Every answer brings the revisions of the bundles that gave it.
"""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import anyio
from opa_client.opa_async import AsyncOpaClient

from gateway.model.errors import PolicyEvaluationError, PolicyLoadError, PolicyTimeout, PolicyUnavailable
from gateway.ports import UNDEFINED

if TYPE_CHECKING:
    from gateway.adapters.policy_files import PolicyFiles

IN_FLIGHT = 16
"""Questions at once: beyond that OPA's throughput falls and its latency grows (measured)."""

VISIBLE_SECONDS = 5.0
"""How long asking `visible` for all items of a list may take."""

_MAX_ERROR = 2_000

_PUSHED = "gateway/"
"""What the names of pushed policies begin with; nothing else in the server is touched."""


class _Client(AsyncOpaClient):  # type: ignore[misc]
    """The client, with redirects refused and its errors kept: an error's body says which rule failed."""

    @asynccontextmanager
    async def _request(self, method: str, url: str, **options: Any) -> AsyncIterator[Any]:
        async with super()._request(method, url, allow_redirects=False, **options) as response:
            if response.status >= 300:
                text = (await response.text())[:_MAX_ERROR]
                raise _Refused(response.status, text)
            yield response


class _Refused(Exception):
    """OPA answered with an HTTP error."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(f"OPA answered {status}: {_error_text(text)}")


class OpaPolicy:
    """An OPA server that holds the policies. Made by `opa_policy`, used within it.

    Args:
        client: connected.
        decision: the path that is asked.
        revision: to begin with, until an answer brings its own.
    """

    def __init__(
        self,
        client: AsyncOpaClient,
        *,
        decision: str,
        revision: str,
        place: str,
        files: "PolicyFiles | None" = None,
    ) -> None:
        self._files = files
        self.revision = revision
        """The revision that gave the last answer: it is read before anything else is awaited."""
        self._client = client
        self._decision = decision
        self._place = place
        self._limit = anyio.CapacityLimiter(IN_FLIGHT)

    def document(self) -> bytes | None:
        """What was put into the server, for the store; None where it has its policies from elsewhere."""
        return None if self._files is None else self._files.document(self._decision)

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """As the port says. Waiting for one of the sixteen places counts as time."""
        return await self._ask(self._decision, question, timeout_seconds)

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        """As the port says: a question for each, sixteen at a time."""
        answers: list[bool | None] = [None] * len(questions)
        failures: list[Exception] = []

        async def ask(index: int) -> None:
            try:
                answer = await self._ask("gateway/visible", questions[index], VISIBLE_SECONDS)
            except (PolicyTimeout, PolicyUnavailable, PolicyEvaluationError) as error:
                failures.append(error)
                group.cancel_scope.cancel()
                return
            if isinstance(answer, bool):
                answers[index] = answer
            elif answer is not UNDEFINED:
                failures.append(PolicyEvaluationError("data.gateway.visible is neither true nor false"))
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for index in range(len(questions)):
                group.start_soon(ask, index)
        if failures:
            raise failures[0]
        return answers

    async def _ask(self, path: str, question: Mapping[str, Any], timeout_seconds: float) -> Any:
        try:
            with anyio.fail_after(timeout_seconds):
                async with self._limit:
                    body = await self._client.query_rule(
                        input_data=question,
                        package_path=path,
                        query_params={"strict-builtin-errors": "true", "provenance": "true"},
                    )
        except TimeoutError:
            raise PolicyTimeout(f"OPA at {self._place} did not answer within {timeout_seconds} s") from None
        except _Refused as error:
            if error.status in (400, 500):
                raise PolicyEvaluationError(str(error)) from None
            raise PolicyUnavailable(f"{self._place}: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError, AttributeError) as error:
            # AttributeError: the client's session is closed.
            raise PolicyUnavailable(f"OPA at {self._place} cannot be asked: {_reason(error)}") from None
        if not isinstance(body, dict):
            raise PolicyUnavailable(f"OPA at {self._place} gave no object")
        if revision := _bundles(body.get("provenance")):
            self.revision = revision
        return body.get("result", UNDEFINED)


@asynccontextmanager
async def opa_policy(
    url: str, *, decision: str = "gateway/decision", push: "PolicyFiles | None" = None, timeout_seconds: float = 0.5
) -> AsyncIterator[OpaPolicy]:
    """Connect to an OPA server for as long as the context lasts. It need not be up yet: then calls are refused until it is.

    Args:
        url: `http://HOST:PORT` or `https://HOST:PORT`; a user part is the bearer token (`https://TOKEN@opa.example`).
        decision: the path that is asked.
        push: local policies to put into the server, unchanged, before the first question. Only if asked for.
        timeout_seconds: for one request of the connection itself; questions have their own.

    Raises:
        PolicyLoadError: the URL is no server's, or OPA does not take the policies that are pushed.
        PolicyUnavailable: policies are to be pushed, and OPA cannot be reached.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise PolicyLoadError(f"{parts.hostname or url}: an OPA server is http://HOST:PORT or https://HOST:PORT")
    port = parts.port or (443 if parts.scheme == "https" else 8181)
    token = unquote(parts.password or parts.username or "") or None
    place = f"{parts.hostname}:{port}"
    client = _Client(
        host=f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname,
        port=port,
        ssl=parts.scheme == "https",
        token=token,
        retries=0,
        timeout=max(timeout_seconds, VISIBLE_SECONDS) + 5,  # a backstop: `anyio.fail_after` is the deadline
    )
    async with client:
        if push is not None:
            await _push(client, push, place)
            revision = push.revision
        else:
            revision = await _held(client, timeout_seconds)
        yield OpaPolicy(client, decision=decision, revision=revision, place=place, files=push)


async def _policies(client: AsyncOpaClient) -> dict[str, str]:
    """The text of each policy that the server holds. (The client's own lists follow a redirect.)"""
    async with client._request("GET", f"{client.root_url}/policies") as response:
        found = await response.json()
    try:
        return {str(policy["id"]): str(policy.get("raw", "")) for policy in found.get("result", [])}
    except (AttributeError, LookupError, TypeError):
        raise _Refused(response.status, "an answer of another form") from None


async def _push(client: AsyncOpaClient, files: "PolicyFiles", place: str) -> None:
    """Put modules and data into the server as they are, in place of what was pushed before; all of it, or nothing.

    OPA compiles at each change, and goes on answering meanwhile. So what defines the decision leaves first and comes last:
    in between there is no answer, which denies. Of the others none can be assumed to compile before another.
    """
    try:
        with anyio.fail_after(30):
            before = {name: text for name, text in (await _policies(client)).items() if name.startswith(_PUSHED)}
            for key, document in files.data.items():
                await client.update_or_create_data(_document(key, document), quote(key, safe=""))
            try:
                await _replace(client, before, {_pushed(name): text for name, text in files.modules.items()})
            except _Refused:
                left = {name: text for name, text in (await _policies(client)).items() if name.startswith(_PUSHED)}
                await _replace(client, left, before)
                raise
    except _Refused as error:
        raise PolicyLoadError(f"{place}: {error}") from None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise PolicyUnavailable(f"OPA at {place} cannot be reached: {_reason(error)}") from None


async def _replace(client: AsyncOpaClient, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Modules in place of others."""

    async def put(name: str) -> None:
        await client.update_policy_from_string(new[name], quote(name), rego_compat=False)

    async def delete(name: str) -> None:
        await client.delete_policy(quote(name))

    await _each(sorted(old, key=lambda name: not _DECIDES.search(old[name])), delete)
    await _each(sorted(new, key=lambda name: bool(_DECIDES.search(new[name]))), put)


def _pushed(name: str) -> str:
    """What a module is called in the server. (OPA redirects from paths that are not clean.)"""
    return _PUSHED + "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


_DECIDES = re.compile(r"^\s*(default\s+)?decision\b", re.MULTILINE)


async def _each(names: Sequence[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Act on each name; those that OPA refuses are tried again after the others, as long as some succeed."""
    while names:
        refused: list[str] = []
        problem: _Refused | None = None
        for name in names:
            try:
                await act(name)
            except _Refused as error:
                refused.append(name)
                problem = problem or error
        if problem is not None and len(refused) == len(names):
            raise problem
        names = refused


def _document(key: str, document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise PolicyLoadError(f"data.{key} is no object; OPA takes only objects at the top level of `data`")
    return document


async def _held(client: AsyncOpaClient, timeout_seconds: float) -> str:
    """What stands for a revision where the server has no bundle: a hash of the policies that it holds, if it says."""
    try:
        with anyio.fail_after(timeout_seconds):
            texts = sorted((await _policies(client)).items())
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, _Refused):
        return "unknown"
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _bundles(provenance: Any) -> str:
    """The bundles' revisions as one text, or ""."""
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict) or not bundles:
        return ""
    return ",".join(f"{name}@{bundle.get('revision', '')}" for name, bundle in sorted(bundles.items()))


def _error_text(text: str) -> str:
    """What an error's body says, in one line."""
    try:
        body = json.loads(text)
        errors = body.get("errors") or [body]
        return "; ".join(
            ":".join(
                str(part)
                for part in (
                    *((error.get("location") or {}).get(key, "") for key in ("file", "row", "col")),
                    f" {error.get('code', '')}: {error.get('message', '')}",
                )
            ).lstrip(":")
            for error in errors
        ).strip()
    except (ValueError, AttributeError):
        return " ".join(text.split())


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
