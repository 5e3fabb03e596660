"""`status`, `servers`, `tools`, `call`, `reload`: what the gateway is doing, and one call through it."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame
from gateway.cli.running import ask, own_gateway

if TYPE_CHECKING:
    from gateway.config import Configuration, OperatorSettings


@frame.command()
@frame.json_option
def status(as_json: bool) -> None:
    """Show what the running gateway is doing: calls in flight and held, open breakers, top refusals, journal lag."""
    found = ask(frame.configuration(), "status")
    if as_json:
        frame.print_json(found)
        return
    started = datetime.fromtimestamp(found["started_at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    journal = found["journal"]
    states = Counter(server["state"] for server in found["servers"])
    click.echo(f"{found['name']} {found['version']}, process {found['pid']}, since {started}")
    click.echo(f"configuration  {found['configuration']['file']} ({found['configuration']['sha256'][:12]})")
    click.echo(f"policy         revision {str(found['policy_revision'])[:12]}")
    click.echo(f"servers        {', '.join(f'{count} {state}' for state, count in states.items()) or 'none'}")
    click.echo(f"tools          {found['catalogue']['tools']}")
    click.echo(f"in flight      {len(found['running'])}")
    click.echo(f"held           {found['held']}")
    click.echo(
        f"journal        record {journal['seq']}, {journal['queued']} waiting, lag {journal['lag_seconds']:.3f} s"
    )
    if journal["fault"]:
        click.echo(f"journal fault  {journal['fault']}")
    for run in found["running"]:
        click.echo(
            f"  {run['call_id']}  {run['agent']}  {run['tool']}  in {run['stage']} for {run['age_seconds']:.1f} s"
        )
    for server in found["servers"]:
        if server["state"] != "available":
            click.echo(f"  server {server['name']}: {server['state']}: {server['reason']}")
    for stop in found["stops"]:
        click.echo(
            f"  {'killed' if stop['killed'] else 'paused'}: {stop['subject']} {stop['name']} by {stop['by']}: {stop['reason']}"
        )
    for breaker in found["open_breakers"]:
        click.echo(f"  breaker {breaker.get('subject', '')}: {breaker['state']}")
    for refusal in found["refusals"]:
        click.echo(f"  refused {refusal['count']} times: {refusal['code']}")
    for removed in found["catalogue"]["removed"]:
        click.echo(f"  not offered: {removed['server']}/{removed['name']}: {removed['reason']}")


@frame.command()
@frame.json_option
def servers(as_json: bool) -> None:
    """List the tool servers; with a running gateway, their states as well."""
    from gateway.model.errors import GatewayError

    configuration = frame.configuration()
    try:
        states = {state["name"]: state for state in ask(configuration, "servers")}
    except GatewayError as error:
        states = {}
        frame.say(f"{error}; this is what the configuration says")
    rows = [
        {
            "name": server.name,
            "transport": server.transport,
            "reaches": str(server.url) if server.url is not None else " ".join([server.command or "", *server.args]),
            "risk": str(server.risk or "write"),
            "isolation": server.isolation,
            "state": states.get(server.name, {}).get("state", "disabled" if server.disabled_reason else ""),
            "reason": server.disabled_reason or states.get(server.name, {}).get("reason", ""),
            "protocol_version": states.get(server.name, {}).get("protocol_version", ""),
        }
        for server in configuration.servers.values()
    ]
    if as_json:
        frame.print_json(rows)
        return
    headings = ("name", "state", "transport", "risk", "isolation", "reaches", "reason")
    frame.print_table(headings, [[row[heading] for heading in headings] for row in rows])


@frame.command()
@click.option("--agent", metavar="NAME", help="As this agent of [agents] sees them.")
@click.option("--limits", is_flag=True, help="Also say what will stop this agent.")
@frame.json_option
def tools(agent: str | None, limits: bool, as_json: bool) -> None:
    """List the tools, as an agent sees them: what the configuration and the policy let it see."""
    from gateway.owner import NoOwner

    configuration = frame.configuration()
    params = {"agent": agent} if agent is not None else {}
    try:
        found = ask(configuration, "tools", params)
        stops = ask(configuration, "limits", params) if limits else []
    except NoOwner:
        import anyio

        found, stops = anyio.run(_tools_alone, frame.configuration(to_use=True), params)
    if as_json:
        frame.print_json({"tools": found, "limits": stops} if limits else found)
        return
    rows = [(tool["name"], tool["tool"], tool["risk"], _first_line(tool["description"])) for tool in found]
    frame.print_table(("name", "tool", "risk", "what it does"), rows)
    if limits:
        click.echo("\nWhat will stop it:")
        for line in stops:
            click.echo(f"  {line}")


async def _tools_alone(configuration: "Configuration", params: dict[str, Any]) -> Any:
    async with own_gateway(configuration, recorded=False) as runtime:
        for state in runtime.servers.states():
            if state.state != "available":
                frame.say(f"{state.name}: {state.state}: {state.reason}")
        return await runtime.acts.perform("tools", None, params), await runtime.acts.perform("limits", None, params)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"


@frame.command()
@click.argument("tool")
@click.argument("arguments", required=False, metavar="[JSON]", default="{}")
@click.option("--agent", metavar="NAME", help="Act as this agent of [agents]; needs an operator's key.")
@click.option("--idempotency-key", metavar="KEY", help="The call is done once under this key.")
@frame.json_option
def call(tool: str, arguments: str, agent: str | None, idempotency_key: str | None, as_json: bool) -> None:
    """Call TOOL (server/tool) with a JSON object through the whole chain: judged, limited, recorded.

    The exit code is 0 where the tool answered, 1 where the call was refused, held or failed.
    """
    from gateway.owner import NoOwner

    try:
        parsed = json.loads(arguments)
    except ValueError as error:
        raise click.UsageError(f"the arguments are not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise click.UsageError('the arguments are not a JSON object; write \'{"name": "value"}\'')
    configuration = frame.configuration()
    if agent is None and not configuration.local_only:
        raise click.UsageError(f"name an agent with --agent: {', '.join(configuration.agents) or 'there are none'}")
    if agent is not None and agent not in configuration.agents:
        raise click.UsageError(f"there is no agent {agent!r}; there are {', '.join(configuration.agents) or 'none'}")
    params = {"tool": tool, "arguments": parsed, "agent": agent, "idempotency_key": idempotency_key}
    try:
        answer = ask(configuration, "call", params, key=agent is not None)
    except NoOwner:
        import anyio

        configuration = frame.configuration(to_use=True)
        operator = frame.operator(configuration) if agent is not None else None
        answer = anyio.run(_call_alone, configuration, params, operator)
    if as_json:
        frame.print_json(answer)
    else:
        _print_answer(answer)
    if "result" not in answer or answer["result"].get("isError") is True:
        raise frame.Negative("")


async def _call_alone(
    configuration: "Configuration", params: dict[str, Any], operator: "OperatorSettings | None"
) -> Any:
    from gateway import wiring
    from gateway.owner import ActingOperator

    acting = None if operator is None else ActingOperator(name=operator.name, role=operator.role)
    async with own_gateway(configuration, recorded=True) as runtime:
        return await wiring.call_as(runtime, params, acting)


def _print_answer(answer: dict[str, Any]) -> None:
    from gateway.config.secrets import REGISTRY

    match REGISTRY.redact_value(answer):
        case {"result": {"content": list(blocks)}}:
            for block in blocks:
                if block.get("type") == "text":
                    click.echo(block.get("text", ""))
                else:
                    click.echo(json.dumps(block, ensure_ascii=False))
        case {"result": result}:
            click.echo(json.dumps(result, ensure_ascii=False))
        case {"refusal": refusal, "message": message}:
            frame.say(f"{refusal['code']}: {message}")
        case {"error": error}:
            frame.say(f"error {error.get('code')}: {error.get('message')}")
        case _:
            click.echo(json.dumps(answer, ensure_ascii=False))
    frame.say(f"call {answer['call_id']}")


@frame.command()
@frame.json_option
def reload(as_json: bool) -> None:
    """Take over a changed configuration and changed policies. Needs an operator's key."""
    configuration = frame.configuration()
    report = ask(configuration, "reload", key=True)
    if as_json:
        frame.print_json(report)
        return
    click.echo(report["message"])
    for key in report["needs_restart"]:
        click.echo(f"needs restart: {key}")
