"""Certificates for development: what is in them, what is kept, and what is said of files that cannot be used."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import datetime as dt
import stat
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from flowbridge.addresses import TlsFiles
from flowbridge.errors import FlowbridgeError, LocalProtocolError, ResourceError
from flowbridge.transports.quic.certificates import (
    certificate_facts,
    check_files,
    make_certificates,
    read_certificates,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
HOSTS = ("localhost", "127.0.0.1", "::1", "edge.example")


def make(folder: Path, *nodes: str, **changed: Any) -> list[str]:
    given: dict[str, Any] = {"hosts": HOSTS, "fabric": None, "days": 30, "force": False, "now": NOW, **changed}
    return [path.name for path in make_certificates(folder, nodes, **given)]


def tls(folder: Path, node: str, **changed: str) -> TlsFiles:
    given = {"certificate": f"{node}.pem", "key": f"{node}.key", "ca": "ca.pem", **changed}
    return TlsFiles(**{name: str(folder / file) for name, file in given.items()})


def test_a_node_is_who_its_alternative_name_says(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert make(folder, "host", "edge-1", fabric="shop") == [
        *("ca.pem", "ca.key", "host.pem", "host.key", "edge-1.pem", "edge-1.key")
    ]
    facts = check_files(tls(folder, "edge-1"), NOW)
    assert (facts.fabric, facts.node, facts.is_authority) == ("shop", "edge-1", False)
    assert facts.hosts == HOSTS
    assert facts.usages == ("clientAuth", "serverAuth")
    assert facts.not_after == NOW + dt.timedelta(days=30)
    assert facts.not_before < NOW
    (certificate,) = read_certificates(folder / "edge-1.pem")
    key: Any = certificate.public_key()
    assert isinstance(key.curve, ec.SECP256R1)
    authority = certificate_facts(read_certificates(folder / "ca.pem")[0])
    assert (authority.fabric, authority.node, authority.is_authority) == ("shop", "", True)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    make(folder, "a")
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("ca.key", "a.key")} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["a.key", "a.pem", "ca.key", "ca.pem"]


def test_an_independent_verifier_takes_them_as_client_and_as_server(tmp_path: Path) -> None:
    make(tmp_path, "a")
    builder = PolicyBuilder().store(Store(read_certificates(tmp_path / "ca.pem"))).time(NOW)
    leaf = read_certificates(tmp_path / "a.pem")[0]
    for host in ("localhost", "edge.example"):
        assert builder.build_server_verifier(x509.DNSName(host)).verify(leaf, [])
    assert builder.build_client_verifier().verify(leaf, []).subjects
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example")).verify(leaf, [])


def test_the_authority_of_a_folder_signs_further_nodes(tmp_path: Path) -> None:
    make(tmp_path, "a", fabric="shop")
    before = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "ca.key").read_bytes(), (tmp_path / "a.key").read_bytes()
    assert make(tmp_path, "b", "b", fabric="shop") == ["b.pem", "b.key"]
    after = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "ca.key").read_bytes(), (tmp_path / "a.key").read_bytes()
    assert before == after
    store = Store(read_certificates(tmp_path / "ca.pem"))
    for node in "ab":
        leaf = read_certificates(tmp_path / f"{node}.pem")[0]
        PolicyBuilder().store(store).time(NOW).build_client_verifier().verify(leaf, [])


def test_nothing_is_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ResourceError, match=r"a\.pem: is there already; --force"):
        make(tmp_path, "b", "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert make(tmp_path, "a", force=True) == ["a.pem", "a.key"]
    assert (tmp_path / "ca.key").read_bytes() == before["ca.key"]
    assert (tmp_path / "a.key").read_bytes() != before["a.key"]


def test_a_node_does_not_outlive_its_authority(tmp_path: Path) -> None:
    make(tmp_path, "a", days=800)
    ends = [certificate_facts(read_certificates(tmp_path / name)[0]).not_after for name in ("a.pem", "ca.pem")]
    assert ends[0] == ends[1]
    with pytest.raises(ResourceError, match=r"ca\.pem: the authority expired"):
        make(tmp_path, "b", now=NOW + dt.timedelta(days=366))


@pytest.mark.parametrize(
    ("nodes", "changed", "why"),
    [
        (["a/b"], {}, "host name 'a/b'"),
        (["ca"], {}, "that of the authority's files"),
        (["a"], {"hosts": ["a b"]}, "neither a host name nor an address"),
        (["a"], {"fabric": "x/y"}, "host name 'x/y'"),
    ],
)
def test_a_name_that_cannot_be_writes_nothing(
    tmp_path: Path, nodes: list[str], changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        make(tmp_path / "c", *nodes, **changed)
    assert not (tmp_path / "c").exists()


def test_an_authority_that_is_none_signs_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a")
    for file, other, why in (("ca.key", "a.key", "is not an authority"), ("ca.key", "a.pem", "holds no private key")):
        kept = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes((tmp_path / other).read_bytes())
        with pytest.raises(ResourceError, match=why):
            make(tmp_path, "b")
        (tmp_path / file).write_bytes(kept)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ResourceError, match=r"ca\.key: cannot be read"):
        make(tmp_path, "b")
    make(tmp_path / "d", "x")
    with pytest.raises(ResourceError, match="of fabric 'dev', not of 'shop'"):
        make(tmp_path / "d", "y", fabric="shop")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        make(tmp_path / "file" / "c", "a")


def signed(folder: Path, names: list[Any], usages: list[Any], begins: dt.datetime, ends: dt.datetime) -> TlsFiles:
    """A certificate that `make_certificates` would not make."""
    authority = read_certificates(folder / "ca.pem")[0]
    key: Any = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    own = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    made = builder.sign(key, hashes.SHA256())
    (folder / "x.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "x.key").write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tls(folder, "x")


BOTH = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("uris", "usages", "begins", "ends", "why"),
    [
        (["fb://dev/node/x"], BOTH[:1], NOW - DAY, NOW + DAY, "is not for serverAuth"),
        (["fb://dev/node/x"], BOTH[1:], NOW - DAY, NOW + DAY, "is not for clientAuth"),
        (["fb://dev/node/x"], [], NOW - DAY, NOW + DAY, "is not for clientAuth and serverAuth"),
        (["fb://dev/node/x"], BOTH, NOW - DAY, NOW - DAY / 2, "expired on 2030-01-01"),
        (["fb://dev/node/x"], BOTH, NOW + DAY, NOW + 2 * DAY, "is valid from 2030-01-03"),
        (["https://dev/node/x"], BOTH, NOW - DAY, NOW + DAY, "names no node"),
        (["fb://dev/node/x", "fb://dev/node/y"], BOTH, NOW - DAY, NOW + DAY, "names no node"),
        (["fb://dev"], BOTH, NOW - DAY, NOW + DAY, "names no node"),
    ],
)
def test_a_certificate_that_cannot_be_a_nodes_is_refused_in_one_line(
    tmp_path: Path, uris: list[str], usages: list[Any], begins: dt.datetime, ends: dt.datetime, why: str
) -> None:
    make(tmp_path, "a")
    files = signed(tmp_path, [x509.UniformResourceIdentifier(uri) for uri in uris], usages, begins, ends)
    with pytest.raises(ResourceError) as caught:
        check_files(files, NOW)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a", "b")
    (tmp_path / "text").write_text("nothing")
    other = ed25519.Ed25519PrivateKey.generate()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (tmp_path / "ed.key").write_bytes(other.private_bytes(*form, serialization.NoEncryption()))
    (tmp_path / "locked.key").write_bytes(other.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    for changed, why in (
        ({"key": "b.key"}, "is not the key of"),
        ({"key": "ed.key"}, "is not the key of"),
        ({"key": "locked.key"}, "the key is encrypted"),
        ({"key": "text"}, "holds no private key"),
        ({"certificate": "text"}, "holds no certificate"),
        ({"certificate": "missing"}, "missing: cannot be read: No such file"),
        ({"ca": "a.pem"}, "holds no authority"),
        ({"ca": "text"}, "holds no certificate"),
        ({"certificate": "ca.pem"}, "names no node"),
    ):
        with pytest.raises(FlowbridgeError) as caught:
            check_files(tls(tmp_path, "a", **changed), NOW)
        assert why in str(caught.value)
