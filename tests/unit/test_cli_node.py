"""`flowbridge certs`, `node` and the options about other hosts: what they write, and every wrong use by its line."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.cli.app import run_app
from flowbridge.cli.node import _teller
from flowbridge.cli.policy_file import read_policy
from flowbridge.errors import FlowErrors
from flowbridge.machines.node_acl import AclRule, Action
from flowbridge.machines.node_policy import NodePolicy, OperatorGrant
from flowbridge.node import NodeEvent
from flowbridge.operators import transform

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[..., tuple[int, str, str]]

FLOW = "flowbridge: 1\nname: f\nnodes:\n  - {id: a, operator: sequence, with: {count: 1}, place: {host: edge-1}}\n"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command line in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("CERT", "KEY", "CA", "TOKEN", "TOKEN_KEYS", "ENGINE"):
        monkeypatch.delenv(f"FLOWBRIDGE_{name}", raising=False)
    (tmp_path / "flow.yaml").write_text(FLOW)

    def run(*args: str) -> tuple[int, str, str]:
        code = run_app(args)
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def files(node: str, folder: str = "c") -> list[str]:
    return ["--cert", f"{folder}/{node}.pem", "--key", f"{folder}/{node}.key", "--ca", f"{folder}/ca.pem"]


def test_certs_new_says_what_it_wrote_and_how_to_go_on(call: Call) -> None:
    code, out, _ = call("certs", "new", "c")
    assert code == 0
    first, _, *commands = out.splitlines()
    assert first == "c: ca.pem, ca.key, host.pem, host.key, edge-1.pem, edge-1.key"
    assert commands == [
        "  flowbridge node --listen quic://localhost:4433 --name edge-1 "
        "--cert c/edge-1.pem --key c/edge-1.key --ca c/ca.pem",
        "  flowbridge run FLOW --node edge-1=quic://localhost:4433 --cert c/host.pem --key c/host.key --ca c/ca.pem",
    ]
    code, out, _ = call("certs", "new", "c", "--node", "edge-2", "--host", "::1", "--json")
    made = json.loads(out)
    assert made["files"] == ["edge-2.pem", "edge-2.key"]
    assert "--listen quic://[::1]:4433 --name edge-2" in made["next"][0]
    assert "--cert c/host.pem" in made["next"][1]


def test_certs_show_says_whose_it_is_and_warns_when_it_ends_soon(call: Call) -> None:
    call("certs", "new", "c", "--node", "a", "--days", "2", "--fabric", "shop")
    code, out, err = call("certs", "show", "c/a.pem")
    assert code == 0
    assert "node         a\nfabric       shop\nhosts        localhost, 127.0.0.1, ::1\n" in out
    assert "clientAuth, serverAuth" in out
    assert "it expires soon" in err
    code, out, err = call("certs", "show", "c/ca.pem", "--json")
    (shown,) = json.loads(out)["certificates"]
    assert (shown["node"], shown["is_authority"], err) == (None, True, "")


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["certs", "new", "flow.yaml"], 2, "is a file; name a folder"),
        (["certs", "new", "c"], 1, "is there already; --force"),
        (["certs", "new", "c", "--node", "x", "--fabric", "other"], 1, "not of 'other'"),
        (["certs", "new", "d", "--days", "0"], 2, "--days"),
        (["certs", "new", "d", "--node", "a b"], 2, "host name 'a b' is not letters"),
        (["certs", "new", "d", "--host", "a b"], 2, "--host 'a b': is neither a host name nor an address"),
        (["certs", "show", "missing.pem"], 2, "no such file"),
        (["certs", "show", "c/host.key"], 1, "holds no certificate"),
        (["node"], 2, "needs --listen"),
        (["node", "--listen", "quic://h", "--name", "edge-1"], 2, "has no port"),
        (["node", "--listen", "quic://h:1", "--name", "edge-1"], 2, "certs new DIR` makes such files"),
        (["node", "--listen", "quic://h:1", "--name", "x", *files("edge-1")], 1, "of node 'edge-1', not of 'x'"),
        (["node", "--listen", "quic://h:1", "--name", "x", "--drain-timeout", "3"], 2, "--drain-timeout"),
        (["node", "digest", "host:x"], 1, "has no digest"),
        (["node", "digest", "python:no_such_module:x"], 1, "is not installed here"),
        (["node", "digest", "no_such"], 1, "there is no operator"),
        (["run", "flow.yaml", "--node", "edge-1"], 2, "write NAME=quic://HOST:PORT"),
        (["run", "flow.yaml", "--node", "edge-1=h:1"], 2, "host edge-1: address 'h:1' has no scheme"),
        (["run", "flow.yaml", "--node", "e=quic://h:1", "--node", "e=quic://h:2"], 2, "host 'e' has two addresses"),
        (["run", "flow.yaml", "--node", "e=quic://h:1"], 2, "needs --cert and --key and --ca"),
        (["run", "flow.yaml", "--node", "e=quic://h:1", "--token", "flow.yaml"], 2, "needs --ca (or FLOWBRIDGE_CA);"),
        (["run", "flow.yaml", "--node", "e=quic://h:1", *files("host"), "--key", "c/edge-1.key"], 1, "is not the key"),
        (["run", "flow.yaml", "--node", "e=quic://h:1", *files("hst")], 2, "--cert c/hst.pem: no such file"),
        (["run", "flow.yaml", "--node", "e=quic://h:1", *files("host"), "--key", "c"], 2, "--key c: is a folder, not"),
        (["node", "--listen", "quic://h:1", "--name", "x", "--policy", "p.yaml"], 2, "--policy p.yaml: no such file"),
    ],
)
def test_a_wrong_use_is_one_line(call: Call, args: list[str], code: int, why: str) -> None:
    call("certs", "new", "c")
    found, out, err = call(*args)
    assert (found, out) == (code, "")
    assert why in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_a_key_that_every_user_can_read_is_warned_of(call: Call, tmp_path: Path) -> None:
    call("certs", "new", "c")
    refused = ("run", "flow.yaml", "--node", "edge-2=quic://127.0.0.1:1", *files("host"))  # before anything is dialled
    code, _, err = call(*refused)
    assert (code, "warning" in err) == (1, False)
    (tmp_path / "c/host.key").chmod(0o644)
    code, out, err = call(*refused)
    assert (code, out) == (1, "")
    warning = "warning: --key c/host.key: every user of this machine can read it (mode 0644); chmod 600 c/host.key"
    assert err.splitlines()[0] == warning


def installed(_: str) -> object:
    return object()


def missing(_: str) -> None:
    return None


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["run", "flow.yaml", "--engine", "quiche"], "'quiche' is not one of auto, aioquic, qh3"),
        (["bench", "rtt", "--engine", "quiche"], "'quiche' is not one of auto, aioquic, qh3"),
        (["node", "--listen", "quic://h:1", "--name", "n", "--engine", "quiche"], "is not one of auto, aioquic, qh3"),
        (["bench", "rtt", "--tier", "quic", "--processes", "1", "--engine", "qh3"], "between two processes"),
        (["node", "--listen", "quic://h:1", "--name", "n", "--engine", "qh3"], "give --token-keys, or use aioquic"),
    ],
)
def test_an_engine_that_cannot_be_chosen_is_a_wrong_use(
    call: Call, args: list[str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", installed)
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert why in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("by_environment", [False, True])
def test_an_engine_that_is_not_installed_is_one_line_that_says_how_to_get_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", missing)
    if by_environment:
        monkeypatch.setenv("FLOWBRIDGE_ENGINE", "qh3")
    args = ("run", "flow.yaml", "--node", "edge-1=quic://h:1")
    code, out, err = call(*args, *(() if by_environment else ("--engine", "qh3")))
    assert (code, out) == (2, "")
    assert err == "Error: --engine qh3: it is not installed; pip install 'flowbridge[qh3]'\n"


def test_the_environment_names_the_files_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    call("certs", "new", "c")
    for name, file in (("CERT", "host.pem"), ("KEY", "edge-1.key"), ("CA", "ca.pem")):
        monkeypatch.setenv(f"FLOWBRIDGE_{name}", f"c/{file}")
    code, _, err = call("run", "flow.yaml", "--node", "edge-1=quic://h:1")
    assert (code, err) == (1, "Error: c/edge-1.key: is not the key of c/host.pem\n")


def test_the_digest_of_an_operator_is_that_of_its_source(call: Call) -> None:
    source = Path(str(transform.__file__)).read_bytes()
    expected = f"sha256:{hashlib.sha256(source).hexdigest()}"
    assert call("node", "digest", "python:flowbridge.operators.transform:Filter")[1] == f"{expected}\n"
    assert call("node", "digest", "filter")[1] == f"{expected}\n"
    assert json.loads(call("node", "digest", "filter", "--json")[1])["digest"] == expected


# --- policies -------------------------------------------------------------------------------------------------------

POLICY = """\
flowbridge-node: 1
builtins: true
files: ./data
operators:
  - ref: python:ops:clean
    digest: sha256:{digest}
    peers: [fb://dev/node/host]
  - ref: csv_source
rules:
  - allow: [port.read, port.write]
    peers: ["fb://dev/node/*"]
    to: "*"
  - deny: pub
    to: [secret.>, a.*]
"""


def test_a_policy_says_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("{digest}", "0" * 64))
    ports = (AclRule("fb://dev/node/*", action, "*") for action in (Action.PORT_READ, Action.PORT_WRITE))
    denied = (AclRule("*", Action.PUB, name, False) for name in ("secret.>", "a.*"))
    assert read_policy(str(file)) == NodePolicy(
        operators=(
            OperatorGrant("python:ops:clean", f"sha256:{'0' * 64}", ("fb://dev/node/host",)),
            OperatorGrant("csv_source"),
        ),
        rules=(*ports, *denied),
        builtins=True,
        files=str(tmp_path / "data"),
    )


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("builtins: true\n", "1:1: FB203 flowbridge-node: is missing"),
        ("flowbridge-node: 2\n", "1:18: FB207 flowbridge-node: this version reads 1"),
        ("flowbridge-node: 1\noperator: []\n", "2:1: FB201 a policy has no key 'operator'"),
        ("flowbridge-node: 1\nbuiltins: 1\n", "2:11: FB202 builtins: is true or false"),
        ("flowbridge-node: 1\noperators:\n  - {ref: [x]}\n", "3:11: FB202 ref: is a text"),
        ("flowbridge-node: 1\noperators:\n  - {digest: x}\n", "3:5: FB203 ref: is missing"),
        ("flowbridge-node: 1\noperators:\n  - {ref: 'host:x'}\n", "3:11: FB305 ref: 'host:x': an object"),
        ("flowbridge-node: 1\noperators:\n  - {ref: 'python:*:x'}\n", "3:11: FB305 ref: 'python:*:x': a reference has"),
        ("flowbridge-node: 1\noperators:\n  - {ref: x, digest: md5}\n", "3:22: FB205 digest: is not sha256:"),
        ("flowbridge-node: 1\noperators:\n  - {ref: x, peers: [edge]}\n", "3:22: FB206 peers: 'edge' is not fb://"),
        ("flowbridge-node: 1\nrules:\n  - {to: x}\n", "3:5: FB203 a rule has one of allow: and deny:"),
        ("flowbridge-node: 1\nrules:\n  - {allow: pub}\n", "3:5: FB203 to: is missing"),
        ("flowbridge-node: 1\nrules:\n  - {allow: pup, to: x}\n", "3:13: FB205 allow: 'pup' is no action (did you"),
        ("flowbridge-node: 1\nrules:\n  - {allow: pub, to: a..b}\n", "3:22: FB308 to: pattern 'a..b' has an empty"),
        ("flowbridge-node: 1\nrules:\n  - {allow: invoke, to: x}\n", "3:13: FB205 allow: operators are allowed"),
        ("flowbridge-node: 1\nrules:\n  - {allow: [], to: x}\n", "3:13: FB205 allow: is empty"),
        ("flowbridge-node: 1\nrules: x\n", "2:8: FB202 rules: is a list"),
        ("- x\n", "1:1: FB202 a policy is a map"),
        ("flowbridge-node: 1\nbuiltins: yes\n", "2:11: FB106"),
        ("flowbridge-node: 1\nflowbridge-node: 1\n", "2:1: FB103"),
        ("a: [\n", "FB101"),
    ],
)
def test_what_is_wrong_in_a_policy_has_its_line_and_column(tmp_path: Path, text: str, finding: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(FlowErrors) as caught:
        read_policy(str(file))
    assert finding in "\n".join(str(found) for found in caught.value.findings)


def test_a_node_shows_what_is_wrong_in_its_policy(call: Call, tmp_path: Path) -> None:
    call("certs", "new", "c")
    (tmp_path / "policy.yaml").write_text("flowbridge-node: 1\nbuiltin: true\n")
    listen: list[Any] = ["node", "--listen", "quic://localhost:0", "--name", "edge-1", *files("edge-1")]
    code, _, err = call(*listen, "--policy", "policy.yaml")
    assert code == 1
    assert "policy.yaml:2:1: FB201 a policy has no key 'builtin' (did you mean builtins?)" in err


def test_certs_token_prints_a_token_that_says_who_is_who(call: Call) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    from flowbridge.transports.quic.tokens import claims_of

    call("certs", "new", "c")
    code, out, err = call("certs", "token", "--key", "c/ca.key", "--node", "host", "--for", "edge-1", "--minutes", "5")
    assert (code, err) == (0, "")
    claims = claims_of(out.strip())
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("fb://dev", "host", "edge-1")
    assert claims["exp"] - claims["iat"] == 300
    assert "cnf" not in claims
    code, out, _ = call(
        *("certs", "token", "--key", "c/ca.key", "--node", "host", "--for", "edge-1", "--cert", "c/host.pem")
    )
    assert "x5t#S256" in claims_of(out.strip())["cnf"]


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["--key", "nowhere"], 2, "--key nowhere: no such file"),
        (["--key", "c/ca.pem"], 1, "c/ca.pem: no private key in PEM form"),
        (["--key", "c/ca.key", "--minutes", "16"], 2, "less than or equal to 15"),
        (["--key", "c/ca.key", "--fabric", "a b"], 1, "fabric 'a b': a name is"),
        (["--key", "c/ca.key", "--cert", "nowhere"], 1, "nowhere"),
    ],
)
def test_certs_token_refuses_in_one_line(call: Call, args: list[str], code: int, why: str) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    call("certs", "new", "c")
    found, out, err = call("certs", "token", "--node", "host", "--for", "edge-1", *args)
    assert (found, out) == (code, "")
    assert why in err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "--token token: no such file"),
        ("", "--token: token: tokens of one node, not of none"),
        ("hello", "--token: token: it is no JSON Web Token"),
        ("é", "--token: token: cannot be read"),
    ],
)
def test_run_refuses_a_file_without_a_token(call: Call, content: str | None, why: str) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    call("certs", "new", "c")
    if content is not None:
        Path("token").write_text(content, encoding="utf-8")
    code, out, err = call(
        *("run", "flow.yaml", "--node", "edge-1=quic://localhost:1", "--ca", "c/ca.pem", "--token", "token")
    )
    assert (code, out) == (2 if content is None else 1, "")
    assert why in err


def test_a_node_refuses_keys_that_are_none(call: Call) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    call("certs", "new", "c")
    for keys, expected, why in (
        ("c/host.key", 1, "a private key does not belong here"),
        ("nowhere", 2, "no such file"),
    ):
        code, out, err = call(
            *("node", "--listen", "quic://127.0.0.1:0", "--name", "edge-1", "--token-keys", keys), *files("edge-1")
        )
        assert (code, out) == (expected, "")
        assert "--token-keys" in err
        assert why in err


def test_a_node_whose_events_nobody_reads_keeps_its_errors() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stderr = sys.__stderr__
    assert stderr is not None
    errors = os.fstat(stderr.fileno())
    with os.fdopen(writer, "w") as stdout:
        tell = _teller(stdout, as_json=False)
        with contextlib.redirect_stdout(stderr):
            for _ in range(2):
                tell(NodeEvent("listening", "it listens"))
        assert os.fstat(stdout.fileno()).st_rdev == os.stat(os.devnull).st_rdev
    assert os.fstat(stderr.fileno()) == errors
