"""What a user gets who has only the package."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.gateway_process import configure, serve

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built as for a release."""
    directory = tmp_path_factory.mktemp("dist")
    pytest.importorskip("hatchling", reason="hatchling is not installed: it builds the wheel")
    code = (
        "import sys; from hatchling.builders.wheel import WheelBuilder\n"
        "print(next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=['standard'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.rule("package.wheel")
def test_the_wheel_has_the_policies_the_types_and_the_commands_and_nothing_of_the_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    shipped = {path.relative_to(ROOT / "policies").as_posix() for path in (ROOT / "policies").rglob("*.rego")}
    assert shipped
    assert {f"gateway/_policies/{name}" for name in shipped} <= set(names)
    assert "gateway/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert "gateway = gateway.cli:main" in entry_points
    assert "mcp-execution-gateway = gateway.cli:main" in entry_points


@pytest.mark.rule("package.init-from-wheel")
def test_init_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    where = tmp_path / "mine"
    where.mkdir()
    environment = {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for command in (["init"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            cwd=where, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for policy in (ROOT / "policies").glob("*.rego"):
        assert (where / "policies" / policy.name).read_bytes() == policy.read_bytes()


@pytest.mark.rule("package.dependencies-declared")
def test_everything_that_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in project["dependencies"]}
    provides = {
        "google_re2": "google-re2", "re2": "google-re2", "yaml": "pyyaml", "opentelemetry": "opentelemetry-api",
        "markupsafe": "jinja2", "prometheus_client": "prometheus-client", "jsonschema_rs": "jsonschema-rs", "opa_client": "opa-python-client",
    }  # fmt: skip
    # the exporter is an extra; `gateway.testing` is a plugin of the pytest that loads it
    optional = {"opentelemetry.sdk", "opentelemetry.exporter", "pytest"}
    imported = set()
    for file in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module)
    foreign = {
        name.partition(".")[0]
        for name in imported
        if name.partition(".")[0] not in sys.stdlib_module_names | {"gateway"}
        and not any(name.startswith(prefix) for prefix in optional)
    }
    missing = {name for name in foreign if provides.get(name, name) not in declared}
    assert not missing


@pytest.mark.rule("package.locked")
@pytest.mark.parametrize("kind", ["runtime", "demo", "dev"])
def test_the_lock_has_a_hash_for_everything_and_no_address(kind: str) -> None:
    text = (ROOT / "requirements" / f"{kind}.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", text) if entry.strip()]
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert "://" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {entry.partition("==")[0] for entry in entries}
    wanted = {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in project["dependencies"]}
    assert wanted <= locked, "run scripts/lock"


@pytest.mark.rule("package.scripts-from-anywhere")
@pytest.mark.parametrize("script", ["demo", "test", "check", "bench", "lock", "environment"])
def test_each_script_is_executable_and_goes_to_its_own_directory(script: str) -> None:
    file = ROOT / "scripts" / script
    assert os.access(file, os.X_OK)
    text = file.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "set -eu" in text
    assert '"$(dirname "$0")' in text
    syntax = subprocess.run(["sh", "-n", str(file)], capture_output=True, text=True, timeout=30, check=False)
    assert syntax.returncode == 0, syntax.stderr


@pytest.mark.rule("docker.agent-key")
def test_the_image_s_entry_exits_with_2_without_the_agent_s_key(tmp_path: Path) -> None:
    entry = ROOT / "scripts" / "container" / "entry"
    (tmp_path / "gateway").write_text('#!/bin/sh\necho "gateway $*"\n')
    (tmp_path / "gateway").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for key, code in ((None, 2), ("", 2), ("k", 0)):
        environment = {"PATH": path, **({} if key is None else {"GATEWAY_AGENT_KEY": key})}
        done = subprocess.run(
            [str(entry), "serve"], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == code
        assert ("GATEWAY_AGENT_KEY is not set" in done.stderr) is (code == 2)
        assert (done.stdout == "gateway serve\n") is (code == 0)


@pytest.mark.rule("docker.agent-key")
def test_the_image_s_configuration_lets_in_who_has_that_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.config import InvalidConfiguration, load

    key = "kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA"
    monkeypatch.setenv("GATEWAY_AGENT_KEY", key)
    configuration = load(ROOT / "scripts" / "container" / "servers.toml")
    agent = configuration.agent_for_key(key)
    assert agent is not None
    assert agent.roles == ("reader",)
    assert not configuration.local_only
    monkeypatch.delenv("GATEWAY_AGENT_KEY")
    with pytest.raises(InvalidConfiguration):
        load(ROOT / "scripts" / "container" / "servers.toml")


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source


def test_the_repository_s_own_configuration_is_valid_and_names_two_tool_servers() -> None:
    from gateway.config import load

    configuration = load(ROOT / "servers.toml")
    assert {"time", "git"} <= set(configuration.servers)
    assert configuration.warnings == ()


def test_nothing_committed_names_this_machine_or_a_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    forbidden = re.compile("|".join(["/" + "work/", "/" + "root/", "pypi" + r"\.org", "registry" + r"\.npmjs"]))
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if not file.is_file() or file.suffix in {".gz", ".png", ".db"}:
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found[:20])


@pytest.mark.rule("package.keys-are-ignored")
def test_git_ignores_every_file_that_a_gateway_leaves_beside_its_configuration(tmp_path: Path) -> None:
    """Keys above all: who commits everything after `scripts/demo` publishes none."""
    config = configure(tmp_path, "")
    for name in (".gitignore", "README.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    with serve(config):
        left = {path.name for path in tmp_path.iterdir() if path.name.startswith("gateway.db")}
    left |= {path.name for path in tmp_path.iterdir() if path.name.startswith("gateway.db")}
    assert {"gateway.db", "gateway.db.key", "gateway.db.signing.pem", "gateway.db.lock"} <= left
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shown = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    assert "README.md" in status
    assert [line for line in status.splitlines() if "gateway.db" in line] == []
