"""What `servers.toml` may say, what it amounts to, and how its faults are told (CONTRACT 3)."""

import hashlib
import os
import re
import sys
from pathlib import Path

import pytest

from gateway.config import (
    LATER,
    Configuration,
    InvalidConfiguration,
    UnresolvedReference,
    check_listen,
    diff,
    discover,
    find_command,
    key_digest,
    load,
    loads,
    resolve,
)
from gateway.config import secrets as secrets_module
from gateway.config.secrets import SecretRegistry
from gateway.model.call import LOCAL, Risk
from gateway.model.errors import ConfigurationError

KEY = "kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA"
MINIMAL = '[servers.x]\ncommand = "server"\nargs = ["--flag"]\n'


def faults(text: str) -> list[str]:
    """The lines that loading `text` says, in order."""
    with pytest.raises(InvalidConfiguration) as caught:
        loads(text, "servers.toml")
    return [str(caught.value), *(str(other) for other in caught.value.others)]


@pytest.mark.rule("config.minimal")
def test_three_lines_are_a_configuration_and_everything_else_has_its_default() -> None:
    configuration = loads(MINIMAL, "/srv/g/servers.toml")
    server = configuration.servers["x"]
    assert (server.command, server.args, server.transport, server.isolation) == (
        "server",
        ("--flag",),
        "stdio",
        "session",
    )
    assert server.asks == {"roots", "elicitation", "sampling"}
    assert server.risk_of("any", {"readOnlyHint": True}) is Risk.WRITE
    assert server.permits("tool", "any")
    assert server.permits("resource", "any://x")
    tool = server.tool("any")
    assert (tool.timeout_seconds, tool.max_request_bytes, tool.max_result_bytes) == (60, 4_194_304, 16_777_216)
    assert (tool.undeclared_arguments, tool.validate_results) == ("refuse", "warn")
    assert configuration.store.path == Path("/srv/g/gateway.db")
    assert (configuration.listen.host, configuration.listen.port) == ("127.0.0.1", 8080)
    assert configuration.gateway.durability == "by-risk"
    assert configuration.gateway.tool_names == "{server}__{tool}"
    assert configuration.gateway.session_idle_seconds == 1800
    assert (configuration.policy.decision, configuration.policy.timeout_seconds) == ("gateway/decision", 0.5)
    assert configuration.policy.shipped
    assert configuration.sha256 == hashlib.sha256(MINIMAL.encode()).hexdigest()
    assert configuration.warnings == ()


@pytest.mark.rule("config.principal-local")
def test_without_agents_there_is_one_agent_called_local() -> None:
    configuration = loads(MINIMAL)
    assert configuration.local_only
    assert [agent.principal for agent in configuration.agents.values()] == [LOCAL]
    assert configuration.agent_for_key("") is None
    assert configuration.agent_for_key(KEY) is None


@pytest.mark.rule("config.one-line-errors")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[servers.x]\ncomand = 'a'\n", 'servers.toml:2: servers.x.comand: unknown key; did you mean "command"?'),
        ("[sevrers.x]\n", 'servers.toml:1: sevrers: unknown key; did you mean "servers"?'),
        (
            "[servers.x]\ncommand='a'\n[servers.x.tools.t]\ntimeout=1\n",
            'servers.toml:4: servers.x.tools.t.timeout: unknown key; did you mean "timeout_seconds"?',
        ),
        (
            "[gateway]\nname = 'g'\n[agents.a]\nkey_sha = 'x'\n",
            'servers.toml:4: agents.a.key_sha: unknown key; did you mean "key_sha256"?',
        ),
        (
            "[servers.x]\ncommand='a'\nrisk='reed'\n",
            "servers.toml:3: servers.x.risk: \"reed\" is not one of \"read\", \"write\" or \"external\"; did you mean \"read\"?",
        ),
        ("[listen]\nport = '80'\n", "servers.toml:2: listen.port: \"80\" where a whole number belongs; write a whole number"),
        ("[listen]\nport = true\n", "servers.toml:2: listen.port: true where a whole number belongs; write a whole number"),
        ("[listen]\nport = 70000\n", "servers.toml:2: listen.port: 70000 is more than 65535"),
        ("[servers.x]\ncommand='a'\nargs=[\n'b',\n3]\n", "servers.toml:5: servers.x.args[1]: 3 where a string belongs; write a string"),
        ("a = \n", "servers.toml:1: not TOML: Invalid value, column 5"),
        ("[policy]\nengine='rego'\n", "servers.toml:2: policy.engine: \"rego\" is no policy engine; write \"embedded:policies\" or \"opa+http://127.0.0.1:8181\""),
        ("[gateway]\nstore='mysql:x'\n", "servers.toml:2: gateway.store: \"mysql:x\" is no store; write \"sqlite:gateway.db\", \"postgresql://…\" or \"memory:\""),
        ("[gateway]\ntool_names='{sever}.{tool}'\n", "servers.toml:2: gateway.tool_names: \"{sever}.{tool}\" is no template; write \"{server}__{tool}\" or \"{tool}\""),
        ("[servers.x]\nrisk='read'\n", "servers.toml:1: servers.x: has neither command nor url; add command = \"…\" (a program on stdio) or url = \"https://…\""),
        ("[servers.x]\ncommand='a'\nurl='http://a'\n", "servers.toml:3: servers.x.url: has both command and url; keep one of them"),
        ("[servers.gateway]\ncommand='a'\n", "servers.toml:1: servers.gateway: the name 'gateway' is the gateway's own; choose another"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_file_line_key_and_mend(text: str, line: str) -> None:
    assert faults(text) == [line]


@pytest.mark.rule("config.one-line-errors")
def test_all_faults_of_a_file_are_told_in_its_order() -> None:
    said = faults("[servers.A]\ncommand='a'\n[servers.b]\n[listen]\nhost='0.0.0.0'\n")
    assert [line.split(": ")[0] for line in said] == ["servers.toml:1", "servers.toml:3", "servers.toml:5"]


@pytest.mark.parametrize("name", ["Git", "-a", "a_b", "a" * 32, "a.b", "é"])
def test_server_names_are_lower_case_digits_and_dashes(name: str) -> None:
    assert "cannot name a server" in faults(f"[servers.'{name}']\ncommand='a'\n")[0]


@pytest.mark.rule("config.later-sections")
@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("gateway.counters=redis", "[gateway]\ncounters='redis://h'\n"),
        ("gateway.store=postgresql", "[gateway]\nstore='postgresql://h/d'\n"),
    ],
)
def test_what_does_nothing_yet_is_refused(section: str, text: str) -> None:
    assert section in LATER
    assert "not available in this version" in faults(text)[0]


def contract_example() -> str:
    """The example of the contract, cut to what does not come later."""
    return f'''
[gateway]
name = "gateway"
store = "sqlite:gateway.db"
counters = "memory:"
durability = "by-risk"
tool_names = "{{server}}__{{tool}}"
instructions = "…"
reload = "watch"
session_idle_seconds = 1800
[listen]
host = "127.0.0.1"
port = 8080
allowed_hosts = []
allowed_origins = []
[policy]
decision = "gateway/decision"
timeout_seconds = 0.5
[defaults]
timeout_seconds = 60
max_request_bytes = 4_194_304
max_result_bytes = 16_777_216
undeclared_arguments = "refuse"
validate_results = "warn"
[servers.git]
command = "python"
args = ["-m", "mcp_server_git"]
env = {{ GIT_TOKEN = "${{env:GIT_TOKEN}}" }}
roots = ["/srv/repos"]
risk = "read"
trust_annotations = false
isolation = "session"
asks = ["roots", "elicitation", "sampling"]
allow = ["git_*", "resource:**"]
deny = ["git_reset"]
[servers.git.tools.git_commit]
risk = "write"
idempotent = false
timeout_seconds = 20
[servers.docs]
url = "https://docs.example/mcp"
headers = {{ Authorization = "Bearer ${{env:DOCS}}" }}
[agents.claude]
key_sha256 = "{key_digest(KEY)}"
roles = ["reader"]
servers = ["git", "docs"]
tools = ["git/*"]
[operators.on-call]
key_sha256 = "{key_digest(KEY + "op")}"
role = "approver"
groups = ["finance"]
'''


def test_the_contract_s_example_amounts_to_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TOKEN", "gho_abcdefgh")
    monkeypatch.setenv("DOCS", "docs-token-1")
    configuration = loads(contract_example(), "/etc/g/servers.toml")
    git = configuration.servers["git"]
    assert git.env["GIT_TOKEN"].reveal() == "gho_abcdefgh"
    assert git.permits("tool", "git_log")
    assert not git.permits("tool", "git_reset")
    assert not git.permits("tool", "other")
    assert git.permits("resource", "file:///a/b")
    assert not git.permits("prompt", "p")
    assert git.tool("git_commit").timeout_seconds == 20
    assert git.tool("git_log").timeout_seconds == 60
    assert git.risk_of("git_commit", {}) is Risk.WRITE
    assert git.risk_of("git_log", {}) is Risk.READ
    assert git.idempotent("git_log", {})
    assert not git.idempotent("git_commit", {})
    docs = configuration.servers["docs"]
    assert (docs.transport, docs.isolation) == ("http", "principal")
    assert docs.headers["Authorization"].reveal() == "Bearer docs-token-1"
    agent = configuration.agent_for_key(KEY)
    assert agent is not None
    assert agent.principal.roles == ("reader",)
    assert agent.permits("git", "tool", "git_log")
    assert not agent.permits("docs", "tool", "search")
    assert not agent.permits("git", "prompt", "p")
    operator = configuration.operator_for_key(KEY + "op")
    assert operator is not None
    assert (operator.name, operator.role, operator.groups) == ("on-call", "approver", ("finance",))
    assert configuration.operator_for_key(KEY) is None
    assert configuration.agent_for_key(KEY + "op") is None
    assert not configuration.local_only


@pytest.mark.rule("config.reload-default")
def test_reload_waits_for_an_operator_once_there_are_operators() -> None:
    assert loads(MINIMAL).reload == "watch"
    operators = f'[operators.a]\nkey_sha256 = "{key_digest(KEY)}"\n'
    assert loads(operators).reload == "operator"
    assert loads('[gateway]\nreload = "watch"\n' + operators).reload == "watch"


@pytest.mark.rule("config.overrides")
def test_a_tool_s_setting_wins_over_its_server_s_and_that_over_the_defaults() -> None:
    configuration = loads(
        "[defaults]\ntimeout_seconds=1\nvalidate_results='off'\nmax_result_bytes=10\n"
        "[servers.a]\ncommand='a'\ntimeout_seconds=2\nvalidate_results='refuse'\n"
        "[servers.a.tools.t]\ntimeout_seconds=3\n"
        "[servers.a.tools.'g_*']\nvalidate_results='warn'\nrisk='external'\n"
        "[servers.a.tools.g_x]\nrisk='read'\n"
        "[servers.b]\ncommand='b'\n"
    )
    a, b = configuration.servers["a"], configuration.servers["b"]
    assert [a.tool(name).timeout_seconds for name in ("t", "other", "g_1")] == [3, 2, 2]
    assert [a.tool(name).validate_results for name in ("t", "other", "g_1", "g_x")] == [
        "refuse",
        "refuse",
        "warn",
        "refuse",
    ]
    assert [a.risk_of(name, {}) for name in ("t", "g_1", "g_x")] == [Risk.WRITE, Risk.EXTERNAL, Risk.READ]
    assert (b.tool("t").timeout_seconds, b.tool("t").max_result_bytes) == (1, 10)


@pytest.mark.rule("config.risk-from-hints")
def test_hints_set_a_risk_only_where_they_are_trusted_and_no_tool_table_says_otherwise() -> None:
    text = "[servers.a]\ncommand='a'\nrisk='write'\ntrust_annotations={}\n[servers.a.tools.t]\nrisk='external'\n"
    untrusted, trusted = (loads(text.format(flag)).servers["a"] for flag in ("false", "true"))
    reads = {"readOnlyHint": True}
    assert untrusted.risk_of("x", reads) is Risk.WRITE
    assert trusted.risk_of("x", reads) is Risk.READ
    assert trusted.risk_of("x", {}) is Risk.WRITE
    assert trusted.risk_of("x", {"readOnlyHint": "yes"}) is Risk.WRITE
    assert trusted.risk_of("x", {"readOnlyHint": True, "openWorldHint": True}) is Risk.EXTERNAL
    assert trusted.risk_of("x", {"readOnlyHint": False, "destructiveHint": False}) is Risk.WRITE
    assert trusted.risk_of("t", reads) is Risk.EXTERNAL


@pytest.mark.rule("config.paths-relative-to-file")
def test_relative_paths_are_relative_to_the_file_wherever_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "token").write_text("file-token-1\n")
    file = tmp_path / "servers.toml"
    file.write_text(
        "[gateway]\nstore='sqlite:data/g.db'\n[policy]\nengine='embedded:policies'\n"
        "[servers.a]\ncommand='bin/server'\ncwd='work'\nroots=['repos', '/abs', 'file:///u']\nenv={T='${file:token}'}\n"
    )
    monkeypatch.chdir("/")
    configuration = load(file)
    a = configuration.servers["a"]
    assert configuration.store.path == tmp_path / "data/g.db"
    assert configuration.policy.path == tmp_path / "policies"
    assert (a.command, a.cwd) == (str(tmp_path / "bin/server"), tmp_path / "work")
    assert a.roots == (str(tmp_path / "repos"), "/abs", "file:///u")
    assert a.env["T"].reveal() == "file-token-1"


@pytest.mark.rule("config.discovery")
def test_the_configuration_is_the_named_one_then_the_environment_s_then_here_then_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigurationError, match="gateway init"):
        discover()
    from gateway.config import user_directory

    user_directory().mkdir(parents=True)
    (user_directory() / "servers.toml").write_text(MINIMAL)
    assert discover() == user_directory() / "servers.toml"
    Path("servers.toml").write_text(MINIMAL)
    assert discover() == Path("servers.toml")
    monkeypatch.setenv("GATEWAY_CONFIG", "/e/x.toml")
    assert discover() == Path("/e/x.toml")
    assert discover("/n/y.toml") == Path("/n/y.toml")


@pytest.mark.rule("config.references")
def test_references_are_replaced_in_env_headers_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "value-of-a")
    (tmp_path / "s").write_text("from-a-file\n")
    script = tmp_path / "say.py"
    script.write_text("import sys; print(sys.argv[1:])")
    registry = SecretRegistry()
    cases = {
        "${env:A_TOKEN}": "value-of-a",
        "x ${env:A_TOKEN} y ${file:s}": "x value-of-a y from-a-file",
        "$${env:A_TOKEN}": "${env:A_TOKEN}",
        "$HOME $A {b}": "$HOME $A {b}",
        f"${{exec:{sys.executable} {script} 'a b' $HOME}}": "['a b', '$HOME']",
    }
    for text, value in cases.items():
        secret = resolve(text, directory=tmp_path, registry=registry)
        assert secret.reveal() == value
        assert value not in f"{secret} {secret!r}" or value == text
    assert registry.redact("a value-of-a and from-a-file.") == "a *** and ***."


@pytest.mark.rule("config.references")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${env:NOT_SET_AT_ALL}", "the environment variable NOT_SET_AT_ALL is not set"),
        ("${file:nowhere}", "No such file"),
        ("${exec:false}", "ended with status 1"),
        ("${exec:no-such-program-here}", "No such file"),
        ("${vault:x}", "is no reference"),
        ("${A}", "is no reference"),
        ("${env:}", "is no reference"),
        ("${unclosed", "is no reference"),
    ],
)
def test_a_reference_that_cannot_be_resolved_says_why(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnresolvedReference, match=re.escape(reason)):
        resolve(text, directory=tmp_path, registry=SecretRegistry())


@pytest.mark.rule("config.references")
def test_a_command_behind_a_reference_has_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets_module.EXEC_TIMEOUT_SECONDS == 10
    monkeypatch.setattr(secrets_module, "EXEC_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(UnresolvedReference, match="no answer within"):
        resolve("${exec:sleep 30}", directory=tmp_path, registry=SecretRegistry())


@pytest.mark.rule("config.unresolved-disables")
def test_an_unresolved_reference_disables_its_server_alone() -> None:
    configuration = loads(
        "[servers.a]\ncommand='a'\nenv={T='${env:NOT_SET_AT_ALL}'}\n[servers.b]\nurl='https://${env:NOT_SET_AT_ALL}/'\n[servers.c]\ncommand='c'\n"
    )
    a, b, c = configuration.servers.values()
    assert a.disabled_reason == "env.T: ${env:NOT_SET_AT_ALL}: the environment variable NOT_SET_AT_ALL is not set"
    assert b.disabled_reason is not None
    assert b.disabled_reason.startswith("url: ")
    assert c.disabled_reason is None
    assert len(configuration.warnings) == 2


@pytest.mark.rule("config.unresolved-fatal")
@pytest.mark.parametrize(
    "text",
    [
        "[agents.a]\nkey='${env:NOT_SET_AT_ALL}'\n",
        "[operators.a]\nkey='${env:NOT_SET_AT_ALL}'\n",
        "[policy]\nengine='opa+http://${env:NOT_SET_AT_ALL}:1'\n",
    ],
)
def test_an_unresolved_reference_among_agents_operators_and_policy_is_fatal(text: str) -> None:
    assert "the environment variable NOT_SET_AT_ALL is not set" in faults(text)[0]


def test_a_reference_in_command_or_args_is_refused_because_everybody_could_read_it() -> None:
    assert "ps" in faults("[servers.a]\ncommand='a'\nargs=['--token=${env:T}']\n")[0]


@pytest.mark.rule("config.secrets-hidden")
def test_no_text_of_a_configuration_shows_a_resolved_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN_TOKEN", "s3cr3t-value")
    configuration = loads(
        "[servers.a]\ncommand='a'\nenv={A='${env:HIDDEN_TOKEN}', API_KEY='literal-s3cr3t'}\n"
        "[servers.b]\nurl='https://u:pass-w0rd@h/${env:HIDDEN_TOKEN}'\nheaders={X='${env:HIDDEN_TOKEN}'}\n"
    )
    shown = f"{configuration!r} {configuration} {configuration.servers['b'].url}"
    for value in ("s3cr3t-value", "literal-s3cr3t", "pass-w0rd"):
        assert value not in shown
    assert "${env:HIDDEN_TOKEN}" in str(configuration.servers["b"].headers["X"])
    assert any("a secret stands in the file" in warning for warning in configuration.warnings)


@pytest.mark.rule("config.redacted-in-sinks")
def test_what_was_resolved_is_erased_from_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.config import REGISTRY

    monkeypatch.setenv("SINK_TOKEN", "sink-value-77")
    loads("[servers.a]\nurl='https://h/'\nheaders={Authorization='Bearer ${env:SINK_TOKEN}'}\n")
    assert REGISTRY.redact("failed with sink-value-77!") == "failed with ***!"
    assert REGISTRY.redact_value({"a": ["x sink-value-77"], "n": 1}) == {"a": ["x ***"], "n": 1}


def test_short_and_everyday_values_are_not_erased() -> None:
    registry = SecretRegistry()
    for value in ("1", "abc", "true", "8080", "123456"):
        registry.add(value)
    assert registry.redact("1 abc true 8080 123456") == "1 abc true 8080 123456"


@pytest.mark.rule("config.weak-keys")
@pytest.mark.parametrize("key", ["short", "a" * 64, "0123456789abcdef", "abcabcabcabcabcabcabcabcabcabcabc"])
def test_a_key_under_128_bits_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAK", key)
    (line,) = faults("[agents.a]\nkey='${env:WEAK}'\n")
    assert "128 bits" in line
    assert key not in line


@pytest.mark.parametrize("length", [16, 24, 32])
def test_random_keys_of_128_bits_and_more_are_taken(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import secrets

    for key in (secrets.token_hex(length), secrets.token_urlsafe(length)):
        monkeypatch.setenv("STRONG", key)
        assert loads("[agents.a]\nkey='${env:STRONG}'\n").agent_for_key(key) is not None


def test_a_key_has_one_owner() -> None:
    digest = key_digest(KEY)
    (line,) = faults(f"[agents.a]\nkey_sha256='{digest}'\n[operators.b]\nkey_sha256='{digest.upper()}'\n")
    assert line == "servers.toml:3: operators.b: has the same key as agents.a; give everyone their own"


def test_an_agent_without_a_key_is_refused() -> None:
    assert "has no key" in faults("[agents.a]\nroles=['x']\n")[0]
    assert "not a SHA-256" in faults("[agents.a]\nkey_sha256='abc'\n")[0]


def test_an_empty_agents_table_lets_nobody_in() -> None:
    configuration = loads("[agents]\n")
    assert not configuration.local_only
    assert dict(configuration.agents) == {}


@pytest.mark.rule("config.loopback-only")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_without_agents_only_loopback_addresses_are_listened_on(host: str) -> None:
    assert "loopback" in faults(f"[listen]\nhost='{host}'\n")[0]
    with pytest.raises(ConfigurationError, match="loopback"):
        check_listen(loads(MINIMAL), host)
    agents = loads(f"[listen]\nhost='{host}'\n[agents.a]\nkey_sha256='{key_digest(KEY)}'\n")
    check_listen(agents, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_addresses_need_no_agents(host: str) -> None:
    check_listen(loads(f"[listen]\nhost='{host}'\n"), host)


def both(old: str, new: str) -> tuple[Configuration, Configuration]:
    return loads(old, "/d/servers.toml"), loads(new, "/d/servers.toml")


@pytest.mark.rule("config.diff")
def test_a_change_is_told_by_what_has_to_be_done() -> None:
    a, b = key_digest(KEY), key_digest(KEY + "b")
    old = f"""[servers.same]\ncommand='s'\n[servers.tuned]\ncommand='t'\n[servers.moved]\ncommand='m'\n[servers.gone]\ncommand='g'
[agents.same]\nkey_sha256='{key_digest("1")}'\n[agents.rekeyed]\nkey_sha256='{a}'\n[agents.gone]\nkey_sha256='{key_digest("2")}'
[agents.demoted]\nkey_sha256='{key_digest("3")}'\nroles=['a']\n"""
    new = f"""[gateway]\nstore='memory:'\ndurability='power'\n[listen]\nport=1\n[servers.new]\ncommand='n'\n[servers.same]\ncommand='s'
[servers.tuned]\ncommand='t'\nrisk='read'\n[servers.moved]\ncommand='m2'
[agents.same]\nkey_sha256='{key_digest("1")}'\n[agents.rekeyed]\nkey_sha256='{b}'\n[agents.new]\nkey_sha256='{key_digest("4")}'
[agents.demoted]\nkey_sha256='{key_digest("3")}'\n[policy]\ntimeout_seconds=1\n"""
    change = diff(*both(old, new))
    assert change.needs_restart == ("gateway.store", "gateway.durability", "listen")
    assert (change.servers_added, change.servers_removed) == (("new",), ("gone",))
    assert (change.servers_relinked, change.servers_retuned) == (("moved",), ("tuned",))
    assert (change.agents_added, change.agents_removed) == (("new",), ("gone",))
    assert (change.agents_rekeyed, change.agents_changed) == (("rekeyed",), ("demoted",))
    assert change.policy
    assert change.sections == ("gateway", "listen", "policy", "servers", "agents")
    assert not diff(*both(old, old))


@pytest.mark.rule("config.diff")
def test_a_secret_that_resolves_to_another_value_relinks_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[servers.a]\ncommand='a'\nenv={T='${env:ROTATED}'}\n"
    monkeypatch.setenv("ROTATED", "first-value")
    old = loads(text)
    monkeypatch.setenv("ROTATED", "second-value")
    assert diff(old, loads(text)).servers_relinked == ("a",)


@pytest.mark.rule("config.look-without-secrets")
def test_a_command_that_only_looks_needs_no_secret_and_runs_no_command(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = f"""[gateway]\nstore='sqlite:g.db'\n[policy]\nengine='opa+http://${{env:NOT_SET_AT_ALL}}:1'
[servers.a]\ncommand='a'\nenv={{T='${{exec:touch {ran}}}', U='${{env:NOT_SET_AT_ALL}}'}}
[servers.b]\nurl='https://${{env:NOT_SET_AT_ALL}}/mcp'
[agents.x]\nkey='${{env:NOT_SET_AT_ALL}}'\n[agents.y]\nkey='${{exec:touch {ran}}}'
[operators.z]\nkey='${{env:NOT_SET_AT_ALL}}'\n"""
    with pytest.raises(InvalidConfiguration):
        loads(text, tmp_path / "servers.toml")
    ran.unlink(missing_ok=True)
    configuration = loads(text, tmp_path / "servers.toml", to_look=True)
    assert not ran.exists()
    assert configuration.store.path == tmp_path / "g.db"
    assert list(configuration.agents) == ["x", "y"]
    assert configuration.warnings == ()
    for key in ("", "-", "${env:NOT_SET_AT_ALL}"):
        assert configuration.agent_for_key(key) is None
        assert configuration.operator_for_key(key) is None


@pytest.mark.rule("config.limits-that-meet-nothing")
def test_a_limit_whose_globs_name_nothing_is_warned_of() -> None:
    key = key_digest(KEY)
    text = f"""[servers.git]\ncommand='a'\n[agents.desk]\nkey_sha256='{key}'\nroles=['reader']
[[quotas]]\nmatch={{agent='dsk'}}\nlimit=1\nwindow='1h'
[[quotas]]\nmatch={{role='raeder', risk='wirte', tool='gti/*'}}\nlimit=1\nwindow='1h'
[[quotas]]\nmatch={{agent='d*', role='*', risk='write', tool='*/git_*'}}\nlimit=1\nwindow='1h'
[[interrupts]]\nname='s'\nwhen={{sequence=['git/*', 'mail/send']}}\nthen='deny'\n"""
    places = [re.findall(r"(?:quotas|interrupts)\S+", warning)[0].rstrip(":") for warning in loads(text).warnings]
    assert places == [
        "quotas[0].match.agent",
        "quotas[1].match.role",
        "quotas[1].match.risk",
        "quotas[1].match.tool",
        "interrupts[0].when.sequence[1]",
    ]


def test_a_path_into_the_arguments_that_is_none_is_refused() -> None:
    (line,) = faults("[servers.a]\ncommand='a'\n[servers.a.tools.t]\nserialize_by='repo_path'\n")
    assert "is no path into the arguments" in line


@pytest.mark.rule("config.roots-exposed")
def test_roots_that_hold_what_decides_over_their_server_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "secret").write_text("kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "policies")
    text = """[gateway]\nstore='sqlite:data/g.db'\n[agents.a]\nkey='${file:secret}'\n
[servers.all]\ncommand='a'\nroots=['.']\n[servers.store]\ncommand='a'\nroots=['data']\n
[servers.link]\ncommand='a'\nroots=['link']\n[servers.args]\ncommand='fs'\nargs=['/']\n
[servers.fine]\ncommand='a'\nroots=['elsewhere', 'file:///']\nargs=['-v']\n"""
    (tmp_path / "servers.toml").write_text(text)
    warnings = load(tmp_path / "servers.toml").warnings
    assert [re.sub(r".*?: servers\.(\w+)\.\w+: \S+ contains (.*?): .*", r"\1: \2", line) for line in warnings] == [
        "all: the configuration and the policies and the store and a key",
        "store: the store",
        "link: the policies",
        "args: the configuration and the policies and the store and a key",
    ]


def test_commands_beside_the_gateway_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = find_command("gateway")
    assert found is not None
    assert os.access(found, os.X_OK)
    assert find_command("no-such-program-here") is None


def test_a_file_that_is_not_there_or_not_text_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"# a\n\xff\n")
    with pytest.raises(InvalidConfiguration, match=r"x.toml:2: it is not UTF-8"):
        load(tmp_path / "x.toml")
