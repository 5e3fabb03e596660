"""The server that the official conformance suite expects, on the SDK's low-level server.

``python -m tests.fixture_server (--http PORT | --stdio) [--era both|legacy|modern]``; port 0 takes a free one, and the URL is
printed on stderr as ``listening on URL``. What each scenario of ``@modelcontextprotocol/conformance`` (0.1.16 and
0.2.0-alpha.12) asks of a server is here: tools, resources, prompts, completions, logging, progress, subscriptions,
sampling, elicitation, roots, SSE polling, Host and Origin checks.

Every tool is written once and works in both protocol eras: what it wants to know of the client is asked by `Round.ask`,
live in the handshake era, as an ``input_required`` result in 2026-07-28. So ``--era`` restricts the server to one era
without changing what it does, which is what a bridge between the eras is measured against.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import anyio
import uvicorn
from mcp import MCPError, types
from mcp.server import CacheHint, InitializationOptions, NotificationOptions, Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.runner import _serve_modern_stream, serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.message import ServerMessageMetadata
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Json = dict[str, Any]
Context = ServerRequestContext[Any, Any]
Era = Literal["both", "legacy", "modern"]

MODERN: Final = "2026-07-28"
HANDSHAKE: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

# One red pixel, and a WAV of no samples.
PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

_NO_ARGUMENTS: Final[Json] = {"type": "object", "properties": {}, "additionalProperties": False}


# ------------------------------------------------------------------------------------------------ asking the client


class InputNeeded(Exception):
    """Ends a round in 2026-07-28: the client is to come again with the answers."""

    def __init__(self, requests: Json, state: str | None) -> None:
        super().__init__("input required")
        self.result: Json = {"resultType": "input_required", "inputRequests": requests}
        if state is not None:
            self.result["requestState"] = state


@dataclass
class Round:
    """One call of a tool or prompt; in 2026-07-28 the client may make several for one question."""

    context: Context
    name: str
    arguments: Mapping[str, Any]
    given: Mapping[str, Any]
    """what this round brings: ``inputResponses``"""
    answers: Json
    """what earlier rounds brought: the ``requestState``, opened"""

    @property
    def modern(self) -> bool:
        return self.context.protocol_version == MODERN

    def client_can(self, capability: str) -> bool:
        declared = self.context.session.client_capabilities
        return declared is not None and getattr(declared, capability) is not None

    async def ask(self, requests: Json, *, stateful: bool = False) -> Json:
        """The client's answers, by the same keys; several at once where there are several requests.

        Raises:
            InputNeeded: 2026-07-28, and an answer is missing yet.
        """
        if not self.modern:
            answers: Json = {}

            async def ask_one(key: str) -> None:
                answers[key] = await self._ask_now(requests[key])

            async with anyio.create_task_group() as group:
                for key in requests:
                    group.start_soon(ask_one, key)
            return answers
        missing = {key: request for key, request in requests.items() if key not in {**self.answers, **self.given}}
        if not missing:
            self.answers.update((key, self.given[key]) for key in requests if key in self.given)
            return {key: self.answers[key] for key in requests}
        state = json.dumps(self.answers | dict(self.given)) if stateful else None
        raise InputNeeded(missing, state)

    async def _ask_now(self, request: Json) -> Json:
        kinds: dict[str, tuple[Any, Any]] = {
            "elicitation/create": (types.ElicitRequest, types.ElicitResult),
            "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
            "roots/list": (types.ListRootsRequest, types.ListRootsResult),
        }
        asked, answered = kinds[request["method"]]
        metadata = ServerMessageMetadata(related_request_id=self.context.request_id)
        answer = await self.context.session.send_request(asked.model_validate(request), answered, metadata=metadata)
        dumped: Json = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        return dumped

    async def log(self, text: str, level: types.LoggingLevel = "info") -> None:
        wanted = session_state(self.context).get("level", "debug")
        if self.modern or LEVELS.index(level) >= LEVELS.index(wanted):
            await self.context.session.send_log_message(level, text, related_request_id=self.context.request_id)


def session_state(context: Context) -> Json:
    """What belongs to one handshake-era session: its log level and its subscriptions."""
    state: Json = context.session._connection.state
    return state


def elicit(message: str, properties: Json, required: list[str] | None = None) -> Json:
    schema: Json = {"type": "object", "properties": properties, "required": required or []}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sample(prompt: str, max_tokens: int = 100) -> Json:
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": max_tokens}}


ROOTS: Final[Json] = {"method": "roots/list"}


def text(*lines: str) -> Json:
    return {"content": [{"type": "text", "text": line} for line in lines]}


# ------------------------------------------------------------------------------------------------ tools

Work = Callable[["Round"], Awaitable[Json]]
TOOLS: dict[str, tuple[Json, Work]] = {}


def tool(description: str, schema: Json | None = None) -> Callable[[Work], Work]:
    """Puts a tool into the catalogue under the function's own name."""

    def add(work: Work) -> Work:
        name = work.__name__
        TOOLS[name] = ({"name": name, "description": description, "inputSchema": schema or _NO_ARGUMENTS}, work)
        return work

    return add


def _strings(**properties: str) -> Json:
    named = {name: {"type": "string", "description": about} for name, about in properties.items()}
    return {"type": "object", "properties": named, "required": list(properties), "additionalProperties": False}


@tool("Answers with one text")
async def test_simple_text(call: Round) -> Json:
    return text("This is a simple text response for testing.")


@tool("Answers with an image")
async def test_image_content(call: Round) -> Json:
    return {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}]}


@tool("Answers with a sound")
async def test_audio_content(call: Round) -> Json:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


@tool("Answers with an embedded resource")
async def test_embedded_resource(call: Round) -> Json:
    resource = {
        "uri": "test://embedded-resource",
        "mimeType": "text/plain",
        "text": "This is an embedded resource content.",
    }
    return {"content": [{"type": "resource", "resource": resource}]}


@tool("Answers with text, an image and a resource")
async def test_multiple_content_types(call: Round) -> Json:
    resource = {
        "uri": "test://mixed-content-resource",
        "mimeType": "application/json",
        "text": json.dumps({"test": "data", "value": 123}),
    }
    return {
        "content": [
            {"type": "text", "text": "Multiple content types test:"},
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            {"type": "resource", "resource": resource},
        ]
    }


@tool("Logs three lines on its way")
async def test_tool_with_logging(call: Round) -> Json:
    await call.log("Tool execution started")
    await anyio.sleep(0.05)
    await call.log("Tool processing data")
    await anyio.sleep(0.05)
    await call.log("Tool execution completed")
    return text("Tool with logging executed successfully")


@tool("Logs one line, to who asked for logs")
async def test_logging_tool(call: Round) -> Json:
    await call.log("a line for those who asked")
    return text("logged")


@tool("Reports its progress: 0, 50 and 100 of 100")
async def test_tool_with_progress(call: Round) -> Json:
    for progress in (0, 50, 100):
        await call.context.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await anyio.sleep(0.05)
    return text("Tool with progress executed successfully")


@tool("Always fails")
async def test_error_handling(call: Round) -> Json:
    return text("This tool intentionally returns an error for testing") | {"isError": True}


@tool("Asks the client's model", _strings(prompt="what to ask the model"))
async def test_sampling(call: Round) -> Json:
    answer = (await call.ask({"sampling": sample(call.arguments["prompt"])}))["sampling"]
    return text(f"LLM response: {answer['content'].get('text', '')}")


@tool("Asks the user", _strings(message="what to ask the user"))
async def test_elicitation(call: Round) -> Json:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    question = elicit(call.arguments["message"], properties, ["username", "email"])
    answer = (await call.ask({"user": question}))["user"]
    return text(f"User response: action={answer['action']}, content={json.dumps(answer.get('content'))}")


@tool("Asks the user, with a default for each kind of field")
async def test_elicitation_sep1034_defaults(call: Round) -> Json:
    properties = {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "description": "Verification status", "default": True},
    }
    answer = (await call.ask({"user": elicit("Please provide user information", properties)}))["user"]
    return text(f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content'))}")


def _choices(*values: tuple[str, str]) -> list[Json]:
    return [{"const": value, "title": title} for value, title in values]


@tool("Asks the user to choose, in each way a schema can say it")
async def test_elicitation_sep1330_enums(call: Round) -> Json:
    options = ["option1", "option2", "option3"]
    titled = _choices(("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option"))
    names = ["Option One", "Option Two", "Option Three"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    answer = (await call.ask({"user": elicit("Please choose", properties)}))["user"]
    return text(f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content'))}")


@tool("Closes the event stream in the middle of the call (handshake era); the client resumes it")
async def test_reconnection(call: Round) -> Json:
    if call.context.close_sse_stream is not None:
        await call.context.close_sse_stream()
        await anyio.sleep(0.2)
    return text("Reconnection test completed")


@tool("Asks for the user's name")
async def test_input_required_result_elicitation(call: Round) -> Json:
    question = elicit("What is your name?", {"name": {"type": "string"}}, ["name"])
    answer = (await call.ask({"user_name": question}))["user_name"]
    return text(f"Hello, {(answer.get('content') or {}).get('name', 'nobody')}!")


@tool("Asks the client's model for a capital")
async def test_input_required_result_sampling(call: Round) -> Json:
    answer = (await call.ask({"capital_question": sample("What is the capital of France?")}))["capital_question"]
    return text(f"The model said: {answer['content'].get('text', '')}")


@tool("Asks for the client's roots")
async def test_input_required_result_list_roots(call: Round) -> Json:
    answer = (await call.ask({"client_roots": ROOTS}))["client_roots"]
    return text("Roots: " + ", ".join(root["uri"] for root in answer["roots"]))


async def _confirm(call: Round) -> Json:
    question = elicit("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])
    await call.ask({"confirm": question}, stateful=True)
    return text("state-ok")


@tool("Asks for a confirmation, with state that must come back")
async def test_input_required_result_request_state(call: Round) -> Json:
    return await _confirm(call)


@tool("Asks for a confirmation, with state that must come back unchanged")
async def test_input_required_result_tampered_state(call: Round) -> Json:
    return await _confirm(call)


@tool("Asks the user, the client's model and for roots, all at once")
async def test_input_required_result_multiple_inputs(call: Round) -> Json:
    requests = {
        "user_name": elicit("What is your name?", {"name": {"type": "string"}}, ["name"]),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await call.ask(requests, stateful=True)
    return text(json.dumps(answers, sort_keys=True))


@tool("Asks for a name, then for a colour")
async def test_input_required_result_multi_round(call: Round) -> Json:
    step1 = elicit("Step 1: What is your name?", {"name": {"type": "string"}}, ["name"])
    step2 = elicit("Step 2: What is your favorite color?", {"color": {"type": "string"}}, ["color"])
    first = (await call.ask({"step1": step1}, stateful=True))["step1"]
    second = (await call.ask({"step2": step2}, stateful=True))["step2"]
    return text(json.dumps([first.get("content"), second.get("content")]))


@tool("Asks whatever the client says that it can answer")
async def test_input_required_result_capabilities(call: Round) -> Json:
    requests: Json = {}
    if call.client_can("elicitation"):
        requests["user_name"] = elicit("What is your name?", {"name": {"type": "string"}}, ["name"])
    if call.client_can("sampling"):
        requests["greeting"] = sample("Generate a greeting", 50)
    if call.client_can("roots"):
        requests["client_roots"] = ROOTS
    answers = await call.ask(requests) if requests else {}
    return text(json.dumps(answers, sort_keys=True))


@tool("Needs a client with a model")
async def test_missing_capability(call: Round) -> Json:
    # In the handshake era servers just ask, and whoever is in between has to know what the client can.
    if call.modern and not call.client_can("sampling"):
        data: Json = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(-32021, "this tool needs the client capability 'sampling'", data)
    answer = (await call.ask({"sampling": sample("Say hello")}))["sampling"]
    return text(f"LLM response: {answer['content'].get('text', '')}")


@tool("Reports progress, then asks the user")
async def test_streaming_elicitation(call: Round) -> Json:
    await call.context.session.report_progress(1, 2, "about to ask")
    question = elicit("Shall it go on?", {"ok": {"type": "boolean"}}, ["ok"])
    answer = (await call.ask({"user": question}))["user"]
    return text(f"the user answered: {answer['action']}")


@tool("Makes the list of tools change: one more, or that one away again")
async def test_trigger_tool_change(call: Round) -> Json:
    EXTRA_TOOLS[:] = [] if EXTRA_TOOLS else [_EXTRA_TOOL]
    await announce(call, ToolsListChanged())
    return text("tools/list_changed was announced")


@tool("Makes the list of prompts change: one more, or that one away again")
async def test_trigger_prompt_change(call: Round) -> Json:
    EXTRA_PROMPTS[:] = [] if EXTRA_PROMPTS else [_EXTRA_PROMPT]
    await announce(call, PromptsListChanged())
    return text("prompts/list_changed was announced")


@tool("Makes a resource change", _strings(uri="the resource that is to change"))
async def test_trigger_resource_update(call: Round) -> Json:
    await announce(call, ResourceUpdated(uri=call.arguments["uri"]))
    return text("resources/updated was announced")


@tool(
    "Waits so many seconds", {"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]}
)
async def test_slow(call: Round) -> Json:
    await anyio.sleep(float(call.arguments["seconds"]))
    return text("waited")


@tool(
    "Tool with JSON Schema 2020-12 features",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(call: Round) -> Json:
    return text(json.dumps(dict(call.arguments), sort_keys=True))


BUS: Final = InMemorySubscriptionBus()

_EXTRA_TOOL: Final[Json] = {"name": "test_extra", "description": "Comes and goes", "inputSchema": _NO_ARGUMENTS}
_EXTRA_PROMPT: Final[Json] = {"name": "test_extra_prompt", "description": "Comes and goes"}
EXTRA_TOOLS: Final[list[Json]] = []
EXTRA_PROMPTS: Final[list[Json]] = []


async def announce(call: Round, event: ServerEvent) -> None:
    """To every ``subscriptions/listen`` stream, and to the session that made it happen."""
    await BUS.publish(event)
    if call.modern:
        return
    session = call.context.session
    match event:
        case ToolsListChanged():
            await session.send_tool_list_changed()
        case PromptsListChanged():
            await session.send_prompt_list_changed()
        case ResourceUpdated(uri=uri):
            if uri in session_state(call.context).get("subscribed", ()):
                await session.send_resource_updated(uri)
        case _:
            await session.send_resource_list_changed()


# ------------------------------------------------------------------------------------------------ resources, prompts

RESOURCES: Final[list[Json]] = [
    {"uri": "test://static-text", "name": "static-text", "description": "A text", "mimeType": "text/plain"},
    {"uri": "test://static-binary", "name": "static-binary", "description": "An image", "mimeType": "image/png"},
    {"uri": "test://watched-resource", "name": "watched", "description": "Changes", "mimeType": "text/plain"},
]
TEMPLATES: Final[list[Json]] = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "Data of an id",
        "mimeType": "application/json",
    }
]
PROMPTS: Final[list[Json]] = [
    {"name": "test_simple_prompt", "description": "A prompt without arguments"},
    {
        "name": "test_prompt_with_arguments",
        "description": "A prompt with two arguments",
        "arguments": [
            {"name": "arg1", "description": "First test argument", "required": True},
            {"name": "arg2", "description": "Second test argument", "required": True},
        ],
    },
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "A prompt with a resource in it",
        "arguments": [{"name": "resourceUri", "description": "URI of the resource to embed", "required": True}],
    },
    {"name": "test_prompt_with_image", "description": "A prompt with an image in it"},
    {"name": "test_input_required_result_prompt", "description": "A prompt that asks the user first"},
]


def contents(uri: str) -> Json | None:
    """What a resource holds; None where there is none."""
    match uri:
        case "test://static-text":
            return {"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."}
        case "test://static-binary":
            return {"uri": uri, "mimeType": "image/png", "blob": PNG}
        case "test://watched-resource":
            return {"uri": uri, "mimeType": "text/plain", "text": "Watched resource content"}
    if found := re.fullmatch(r"test://template/([^/]+)/data", uri):
        identifier = found[1]
        data = {"id": identifier, "templateTest": True, "data": f"Data for ID: {identifier}"}
        return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    return None


def _say(*contents: Json) -> Json:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


async def prompt(call: Round) -> Json:
    arguments = call.arguments
    match call.name:
        case "test_simple_prompt":
            return _say({"type": "text", "text": "This is a simple prompt for testing."})
        case "test_prompt_with_arguments":
            line = f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
            return _say({"type": "text", "text": line})
        case "test_prompt_with_embedded_resource":
            resource = {
                "uri": arguments["resourceUri"],
                "mimeType": "text/plain",
                "text": "Embedded resource content for testing.",
            }
            after = {"type": "text", "text": "Please process the embedded resource above."}
            return _say({"type": "resource", "resource": resource}, after)
        case "test_prompt_with_image":
            after = {"type": "text", "text": "Please analyze the image above."}
            return _say({"type": "image", "data": PNG, "mimeType": "image/png"}, after)
        case "test_input_required_result_prompt":
            question = elicit("What context should the prompt use?", {"context": {"type": "string"}}, ["context"])
            answer = (await call.ask({"user_context": question}))["user_context"]
            return _say({"type": "text", "text": f"Context: {(answer.get('content') or {}).get('context')}"})
        case _:
            raise MCPError(-32602, f"Unknown prompt: {call.name}")


# ------------------------------------------------------------------------------------------------ the server


class FixtureServer(Server[Any]):
    """Says in the handshake, too, that its lists may change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        everything = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(everything, experimental_capabilities, extensions)


def _dumped(answers: Mapping[str, Any] | None) -> Json:
    found: Json = {}
    for key, answer in (answers or {}).items():
        found[key] = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    return found


def _round(context: Context, params: types.CallToolRequestParams | types.GetPromptRequestParams) -> Round:
    answers: Json = json.loads(params.request_state) if params.request_state is not None else {}
    return Round(context, params.name, params.arguments or {}, _dumped(params.input_responses), answers)


async def _call_tool(context: Context, params: types.CallToolRequestParams) -> HandlerResult:
    if params.name not in TOOLS:
        raise MCPError(-32602, f"Unknown tool: {params.name}")
    _, work = TOOLS[params.name]
    try:
        return types.CallToolResult.model_validate(await work(_round(context, params)))
    except InputNeeded as needed:
        return needed.result


async def _get_prompt(context: Context, params: types.GetPromptRequestParams) -> HandlerResult:
    try:
        return types.GetPromptResult.model_validate(await prompt(_round(context, params)))
    except InputNeeded as needed:
        return needed.result


async def _read(context: Context, params: types.ReadResourceRequestParams) -> HandlerResult:
    found = contents(params.uri)
    if found is None:
        code = -32602 if context.protocol_version == MODERN else -32002
        raise MCPError(code, "Resource not found", {"uri": params.uri})
    return types.ReadResourceResult.model_validate({"contents": [found]})


async def _list_tools(_: Context, __: types.PaginatedRequestParams) -> HandlerResult:
    return types.ListToolsResult.model_validate(
        {"tools": [*(definition for definition, _ in TOOLS.values()), *EXTRA_TOOLS]}
    )


async def _list_resources(_: Context, __: types.PaginatedRequestParams) -> HandlerResult:
    return types.ListResourcesResult.model_validate({"resources": RESOURCES})


async def _list_templates(_: Context, __: types.PaginatedRequestParams) -> HandlerResult:
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": TEMPLATES})


async def _list_prompts(_: Context, __: types.PaginatedRequestParams) -> HandlerResult:
    return types.ListPromptsResult.model_validate({"prompts": [*PROMPTS, *EXTRA_PROMPTS]})


async def _complete(_: Context, params: types.CompleteRequestParams) -> HandlerResult:
    values = [word for word in ("paris", "park", "party", "test", "testing") if word.startswith(params.argument.value)]
    completion = types.Completion(values=values, total=len(values), has_more=False)
    return types.CompleteResult(completion=completion)


async def _set_level(context: Context, params: types.SetLevelRequestParams) -> HandlerResult:
    session_state(context)["level"] = params.level
    return types.EmptyResult()


async def _subscribe(context: Context, params: types.SubscribeRequestParams) -> HandlerResult:
    session_state(context).setdefault("subscribed", set()).add(params.uri)
    return types.EmptyResult()


async def _unsubscribe(context: Context, params: types.UnsubscribeRequestParams) -> HandlerResult:
    session_state(context).setdefault("subscribed", set()).discard(params.uri)
    return types.EmptyResult()


def build() -> FixtureServer:
    """The server, in both eras."""
    methods: tuple[Any, ...] = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    hints: dict[Any, CacheHint] = {method: CacheHint(ttl_ms=1000, scope="public") for method in methods}
    hints["resources/read"] = CacheHint(ttl_ms=0, scope="private")
    server = FixtureServer(
        "conformance-fixture",
        version="1.0.0",
        instructions="A server for tests: every tool says what it does.",
        cache_hints=hints,
        get_tool_input_schema=lambda name: TOOLS[name][0]["inputSchema"] if name in TOOLS else None,
    )
    add = server.add_request_handler
    add("tools/list", types.PaginatedRequestParams, _list_tools)
    add("tools/call", types.CallToolRequestParams, _call_tool)
    add("resources/list", types.PaginatedRequestParams, _list_resources)
    add("resources/templates/list", types.PaginatedRequestParams, _list_templates)
    add("resources/read", types.ReadResourceRequestParams, _read)
    add("resources/subscribe", types.SubscribeRequestParams, _subscribe)
    add("resources/unsubscribe", types.UnsubscribeRequestParams, _unsubscribe)
    add("prompts/list", types.PaginatedRequestParams, _list_prompts)
    add("prompts/get", types.GetPromptRequestParams, _get_prompt)
    add("completion/complete", types.CompleteRequestParams, _complete)
    add("logging/setLevel", types.SetLevelRequestParams, _set_level)
    add("subscriptions/listen", types.SubscriptionsListenRequestParams, ListenHandler(BUS))
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="fixture"))
    return server


class Events(EventStore):
    """Keeps every event, so that a stream can be resumed (SEP-1699)."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if not last_event_id.isdecimal() or not 0 < int(last_event_id) <= len(self._events):
            return None
        stream_id, _ = self._events[int(last_event_id) - 1]
        for number, (owner, message) in enumerate(self._events, start=1):
            if owner == stream_id and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


class OneEra:
    """In front of the HTTP endpoint: answers the other era as a server that never heard of it does."""

    def __init__(self, app: ASGIApp, era: Era) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._era == "both":
            await self._app(scope, receive, send)
            return
        version = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode("latin-1")
        modern = version not in ("", *HANDSHAKE)
        if modern == (self._era == "modern"):
            await self._app(scope, receive, send)
            return
        if self._era == "modern" and scope["method"] != "POST":
            await _answer(send, 405, {})
            return
        body = await _body(receive)
        if self._era == "legacy":
            error: Json = {"code": -32000, "message": f"Bad Request: Unsupported protocol version: {version}"}
        else:
            requested = version or body.get("params", {}).get("protocolVersion")
            data = {"supported": [MODERN], "requested": requested}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
        await _answer(send, 400, {"jsonrpc": "2.0", "id": body.get("id"), "error": error})


async def _body(receive: Receive) -> Json:
    chunks = b""
    more = True
    while more:
        message: Message = await receive()
        chunks += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        parsed = json.loads(chunks)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


async def _answer(send: Send, status: int, body: Json) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _no_discovery(ctx: Context, call_next: CallNext) -> HandlerResult:
    """A server of the handshake era does not know ``server/discover``."""
    if ctx.method == "server/discover":
        raise MCPError(-32601, "Method not found", ctx.method)
    return await call_next(ctx)


async def serve_stdio(era: Era) -> None:
    server = build()
    if era == "legacy":
        server.middleware.append(_no_discovery)
    options = server.create_initialization_options()
    async with stdio_server() as (read, write):
        match era:
            case "both":
                await server.run(read, write, options)
            case "legacy":
                await serve_loop(server, read, write, lifespan_state={}, init_options=options)
            case "modern":
                await _serve_modern_stream(server, read, write, lifespan_state={}, raise_exceptions=False)


def serve_http(port: int, era: Era) -> None:
    app = OneEra(build().streamable_http_app(event_store=Events(), retry_interval=100), era)
    listening = socket.create_server(("127.0.0.1", port))
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    # A client that leaves its streams open must not keep the server from ending.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    transport = parser.add_mutually_exclusive_group(required=True)
    transport.add_argument("--stdio", action="store_true")
    transport.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--era", choices=["both", "legacy", "modern"], default="both")
    arguments = parser.parse_args()
    # The deprecated parts of the protocol are what a gateway must still relay.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    if arguments.stdio:
        anyio.run(serve_stdio, arguments.era)
    else:
        serve_http(arguments.http, arguments.era)


if __name__ == "__main__":
    main()
