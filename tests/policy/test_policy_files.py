"""Policies are read from directories and bundles, checked, and compiled; what is doubtful does not load."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.policy_embedded import embedded_policy
from gateway.adapters.policy_files import compile_policies, load_policies, read_policies, revision_of
from gateway.decide.policy import question
from gateway.model.errors import PolicyLoadError
from tests.building import call, tool

ROOT = Path(__file__).parents[2]
GATEWAY = (ROOT / "policies" / "gateway.rego").read_text()


def write(directory: Path, **files: str) -> Path:
    """Files below a directory; `__` in a name stands for `/`, the last `_` for the dot."""
    for name, text in files.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        path = directory / f"{stem}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def refused(path: Path) -> str:
    with pytest.raises(PolicyLoadError) as caught:
        load_policies(path, shown="policies")
    return str(caught.value)


@pytest.mark.anyio
@pytest.mark.rule("policy.shipped")
async def test_the_shipped_policies_load_and_decide() -> None:
    engine = embedded_policy(ROOT / "policies")
    answer = await engine.decide(question(call(tool("git_log", "git"))), timeout_seconds=1)
    assert answer == {"allow": True, "deny": [], "hold": [], "obligations": []}


@pytest.mark.rule("policy.none")
@pytest.mark.parametrize("files", [{}, {"a_rego": "package gateway\nallow := true\n"}, {"notes_txt": "hello"}])
def test_no_policy_at_all_is_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    assert "there is no policy" in refused(write(tmp_path, **files))
    assert "there is no such directory" in refused(tmp_path / "absent")


@pytest.mark.parametrize("decision", ["corp/answer", "gateway/decision"])
def test_the_decision_may_be_another_path(tmp_path: Path, decision: str) -> None:
    package, name = decision.split("/")
    write(tmp_path, a_rego=f"package {package}\n{name} := true\n")
    load_policies(tmp_path, decision=decision)
    with pytest.raises(PolicyLoadError):
        load_policies(tmp_path, decision="other/path")


@pytest.mark.rule("policy.typos")
@pytest.mark.parametrize(
    ("rule", "name", "nearest"),
    [
        ('deni contains {"code": "a", "message": "b"} if input.version == 2', "deni", "deny"),
        ("alow if true", "alow", "allow"),
        ("default obligation := false", "obligation", "obligations"),
        ("visble := false", "visble", "visible"),
        ("helper(x) if x == 1", "helper", ""),
    ],
)
def test_a_rule_that_is_no_entry_point_and_reached_from_none_does_not_load(
    tmp_path: Path, rule: str, name: str, nearest: str
) -> None:
    text = refused(write(tmp_path, gateway_rego=GATEWAY, mine_rego=f"package gateway\n\n{rule}\n"))
    assert text.startswith("policies/mine.rego:3:1: gateway_unreached_rule_error: ")
    assert f"rule {name} " in text
    if nearest:
        assert text.endswith(f"the nearest name is {nearest}")


@pytest.mark.rule("policy.typos")
def test_rules_that_an_entry_point_reaches_load_wherever_they_are(tmp_path: Path) -> None:
    write(
        tmp_path,
        gateway_rego=GATEWAY,
        a_rego="""package gateway

import data.lib.roles as known

allow if helped(input.subject.id)

helped(id) if id == inner.name

inner := {"name": known.name}

deny contains {"code": "x", "message": data.lib.texts[picked]} if input.version == 3

picked := "text"
""",
        lib__roles_rego="package lib.roles\n\nname := data.gateway.through\n\nunused := 1\n",
        lib__texts_rego="package lib.texts\n\ntext := data.gateway.through\n",
        b_rego='package gateway\n\nthrough := "claude"\n',
    )
    load_policies(tmp_path)


@pytest.mark.rule("policy.input-typos")
@pytest.mark.parametrize(
    ("field", "loads"),
    [
        ("input.resource.risk", True),
        ("input.resource.rsk", False),
        ("input.principal.id", False),
        ("input.context.tme_ns", False),
        ("input.context.recent[0].tool", True),
        ("input.context.recent[0].tol", False),
        ("input.tool", False),
        ("input.arguments.any.thing", True),
        ("input.meta.any.thing", True),
        ("input.subject.claims.any.thing", True),
        ("input.resource.annotations.any.thing", True),
        ("input.context.client.any.thing", True),
    ],
)
def test_a_field_that_the_question_does_not_have_is_a_type_error(tmp_path: Path, field: str, loads: bool) -> None:
    write(tmp_path, gateway_rego=GATEWAY, mine_rego=f"package gateway\n\nallow if {field} == 1\n")
    if field == "input.resource.risk" or field == "input.context.recent[0].tool":
        write(tmp_path, mine_rego=f'package gateway\n\nallow if {field} == "x"\n')
    if loads:
        load_policies(tmp_path)
    else:
        text = refused(tmp_path)
        assert text.startswith("policies/mine.rego:3:")
        assert "rego_type_error: undefined ref: input" in text


@pytest.mark.rule("policy.check-all")
def test_every_fault_has_its_file_line_column_and_code(tmp_path: Path) -> None:
    write(
        tmp_path,
        gateway_rego=GATEWAY,
        a_rego="package gateway\n\nallow if not typo\n",
        b_rego="package gateway\n\n\nallow if x == 1\n",
    )
    lines = refused(tmp_path).splitlines()
    assert any(line.startswith("policies/a.rego:3:10: rego_unsafe_var_error: ") for line in lines)
    assert any(line.startswith("policies/b.rego:4:10: rego_unsafe_var_error: ") for line in lines)
    write(tmp_path, c_rego="package gateway\n\nallow {\n", d_rego="package gateway\n\ndeny := \n")
    lines = refused(tmp_path).splitlines()
    assert lines[0].startswith("policies/c.rego:")
    assert any(line.startswith("policies/d.rego:") for line in lines)
    assert all("rego_parse_error" in line for line in lines)


def test_data_is_mounted_by_directory_and_tests_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        gateway_rego=GATEWAY,
        data_json='{"a": {"x": 1}}',
        a__data_yaml="y: yes\nd: 2026-01-02\nn: 017\ne: 1e3\nt: true\nz: ~\n",
        a__b__data_json="[1, 2]",
        mine_test_rego="package gateway\nnonsense {",
        other_json='{"ignored": true}',
    )
    files = read_policies(tmp_path)
    assert files.data == {
        "a": {"x": 1, "y": "yes", "d": "2026-01-02", "n": 15, "e": 1000, "t": True, "z": None, "b": [1, 2]}
    }
    assert set(files.modules) == {"gateway.rego"}
    assert files.ignored == ("other.json",)
    (tmp_path / "gateway_test.rego").write_text("package x\n")
    (tmp_path / "mine_test.rego").unlink(missing_ok=True)
    assert "gateway_test.rego" in read_policies(tmp_path, tests=True).tests


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"data_json": '{"a": 1}', "a__data_json": "{}"}, "merge error"),
        ({"data_json": "[1]"}, "no object"),
        ({"data_json": '{"a": 1, "a": 2}'}, "twice"),
        ({"data_json": '{"a": NaN}'}, "NaN"),
        ({"data_json": "{"}, "data.json"),
        ({"data_yaml": "a: 1\na: 2\n"}, "twice"),
        ({"data_yaml": "a: !!python/object:os.system x\n"}, "data.yaml"),
        ({"data_json": '{"gateway": {"allow": true}}'}, "conflicting rule for data path gateway/allow"),
    ],
)
def test_doubtful_data_does_not_load(tmp_path: Path, files: dict[str, str], says: str) -> None:
    assert says in refused(write(tmp_path, gateway_rego=GATEWAY, **files))


def test_hidden_files_are_passed_over_and_links_followed(tmp_path: Path) -> None:
    """As a Kubernetes ConfigMap is mounted: `policies/gateway.rego -> ..data/gateway.rego`, `..data -> ..2026_11`."""
    real = tmp_path / "..2026_11"
    write(real, gateway_rego=GATEWAY)
    (tmp_path / "..data").symlink_to(real.name)
    (tmp_path / "gateway.rego").symlink_to("..data/gateway.rego")
    (tmp_path / "loop").symlink_to(".")
    assert set(read_policies(tmp_path).modules) == {"gateway.rego"}


def archive(path: Path, files: dict[str, str], manifest: Any = None) -> Path:
    """A bundle."""
    if manifest is not None:
        files = {**files, ".manifest": json.dumps(manifest)}
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo("/" + name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.rule("policy.bundles")
def test_a_bundle_loads_like_its_directory(tmp_path: Path) -> None:
    contents = {"gateway.rego": GATEWAY, "roles/data.json": '{"a": ["reader"]}', "gateway_test.rego": "package x\n"}
    path = archive(tmp_path / "b.tar.gz", contents, {"revision": "v1", "roots": ["gateway", "roles"]})
    files, _ = load_policies(path)
    assert files.bundle_revision == "v1"
    directory = tmp_path / "d"
    write(directory, gateway_rego=GATEWAY, roles__data_json='{"a": ["reader"]}')
    same, _ = load_policies(directory)
    assert (files.modules, files.data, files.revision) == (same.modules, same.data, same.revision)


@pytest.mark.rule("policy.bundles")
@pytest.mark.parametrize(
    ("contents", "manifest", "says"),
    [
        ({"gateway.rego": GATEWAY}, {"roots": ["other"]}, "outside the bundle's roots"),
        ({"gateway.rego": GATEWAY, "data.json": '{"x": 1}'}, {"roots": ["gateway"]}, "outside the bundle's roots"),
        ({"gateway.rego": GATEWAY}, {"rego_version": 0}, "Rego version 0"),
        ({"gateway.rego": GATEWAY}, [], "no object"),
    ],
)
def test_a_bundle_that_breaks_its_manifest_does_not_load(
    tmp_path: Path, contents: dict[str, str], manifest: Any, says: str
) -> None:
    assert says in refused(archive(tmp_path / "b.tar.gz", contents, manifest))


def test_what_is_no_bundle_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_bytes(b"not gzip")
    assert "not a bundle" in refused(tmp_path / "b.tar.gz")


@pytest.mark.rule("policy.revision")
def test_the_revision_is_the_hash_of_modules_and_data_and_nothing_else(tmp_path: Path) -> None:
    one = write(tmp_path / "one", gateway_rego=GATEWAY, data_json='{"a": 1, "b": 2}')
    two = write(tmp_path / "two", data_json='{"b": 2,  "a": 1}', gateway_rego=GATEWAY, mine_test_rego="package t\n")
    assert read_policies(one).revision == read_policies(two).revision
    write(two, data_json='{"b": 2, "a": 2}')
    assert read_policies(one).revision != read_policies(two).revision
    assert revision_of({"a": "x"}, {}) != revision_of({"a": "y"}, {}) != revision_of({}, {})


def test_a_data_file_that_is_named_itself_loads_at_the_root_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "roles.json").write_text('{"roles": {"a": 1}}')
    assert read_policies(ROOT / "policies", tmp_path / "roles.json").data == {"roles": {"a": 1}}


def test_several_paths_are_merged(tmp_path: Path) -> None:
    shipped, mine = ROOT / "policies", write(tmp_path, mine_rego="package gateway\n\nallow if input.version == 2\n")
    files = read_policies(shipped, mine / "mine.rego")
    compile_policies(files)
    assert len(files.modules) == 3
