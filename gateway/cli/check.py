"""`check`: is everything that is written down right? The configuration, the policies, and what tool servers make of both."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame

if TYPE_CHECKING:
    from gateway.config import Configuration


@frame.command()
@click.option(
    "--connect", is_flag=True, help="Connect to the tool servers too, and report what of them cannot be offered."
)
@frame.json_option
def check(connect: bool, as_json: bool) -> None:
    """Check the configuration and the policies.

    Tools that cannot be offered (two of one name, a malformed definition) are known once tool servers are connected: they
    are reported where a gateway is running, or with --connect, which starts the tool servers for itself.
    """
    configuration = frame.configuration(to_use=True)
    modules = _policies(configuration)
    warnings = [*configuration.warnings, *_undecidable(configuration, modules)]
    unavailable, removed = _offered(configuration, connect)
    if as_json:
        frame.print_json(
            {
                "file": os.fspath(configuration.file),
                "sha256": configuration.sha256,
                "servers": {name: server.disabled_reason for name, server in configuration.servers.items()},
                "policies": sorted(modules),
                "warnings": warnings,
                "unavailable": unavailable,
                "removed": removed,
            }
        )
    else:
        for warning in warnings:
            frame.say(f"warning: {warning}")
        for name, reason in unavailable.items():
            frame.say(f"unavailable: {name}: {reason}")
        for item in removed:
            frame.say(f"not offered: {item['server']}/{item['name']} ({item['type']}): {item['reason']}")
        where = "the shipped policies" if configuration.policy.shipped else f"{len(modules)} policy files"
        what = str(configuration.policy.url) if configuration.policy.scheme == "opa" else where
        click.echo(
            f"{configuration.file}: {len(configuration.servers)} servers, {what}, sha256 {configuration.sha256[:12]}"
        )
    if unavailable:
        raise frame.Negative("")


def _policies(configuration: "Configuration") -> Mapping[str, str]:
    """The modules' texts, compiled to be sure that they load.

    Raises:
        PolicyLoadError: they do not.
    """
    from gateway.adapters.policy_files import load_policies

    found: dict[str, str] = {}
    for policy in (configuration.policy, configuration.policy.shadow):
        if policy is not None and policy.path is not None:
            files, _ = load_policies(policy.path, shown=policy.path.name, decision=policy.decision)
            found |= files.modules
    return found


def _undecidable(configuration: "Configuration", modules: Mapping[str, str]) -> Iterator[str]:
    """Holds that nobody who is configured could decide: such a call is denied (CONTRACT 6)."""
    approvers = [operator for operator in configuration.operators.values() if operator.role != "viewer"]
    groups = {group for operator in approvers for group in operator.groups}
    for name, server in configuration.servers.items():
        held = [tool for tool, settings in server.tools.items() if settings.approval_hold]
        if held and not approvers:
            yield f"servers.{name}.tools.{held[0]}.approval: there is no operator who could approve, so it is denied"
    for name, text in sorted(modules.items()):
        code = re.sub(r"(?m)#.*$", "", text)
        if re.search(r"(?m)^\s*hold\s+contains\s+(?!\{\}\s+if\s+false)", code) and not approvers:
            yield f"{name}: it holds calls, and there is no operator who could approve them, so they are denied"
        for group in sorted({*re.findall(r'"group:([^"]+)"', code)} - groups):
            yield f'{name}: "group:{group}" is the group of no operator who may approve'


def _offered(configuration: "Configuration", connect: bool) -> tuple[dict[str, str], Sequence[Mapping[str, Any]]]:
    """(unavailable servers with the reason, what is not offered), as far as it is known."""
    from gateway.cli.running import ask, own_gateway
    from gateway.model.errors import GatewayError

    if connect:
        import anyio

        async def alone() -> Any:
            async with own_gateway(configuration, recorded=False) as runtime:
                return await runtime.acts.perform("status", None, {})

        status = anyio.run(alone)
        unavailable = {
            server["name"]: server["reason"] for server in status["servers"] if server["state"] != "available"
        }
    else:
        try:
            status = ask(configuration, "status")
        except GatewayError:
            return {}, []
        unavailable = {}
    wanted = "the configuration does not offer it"
    return unavailable, [item for item in status["catalogue"]["removed"] if not item["reason"].startswith(wanted)]
