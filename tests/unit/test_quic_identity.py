"""Certificates read from files and judged."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from quic_certs import CLIENT, make_ca, make_node

from flowbridge.errors import LocalProtocolError
from flowbridge.transports.quic.engine import Identity
from flowbridge.transports.quic.engines import make_acceptor
from flowbridge.transports.quic.identity import (
    Refusal,
    check_pair,
    describe,
    identify,
    judge,
    read_certificates,
    read_key,
)
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509
    from quic_certs import Authority, Node


def _read(pem: bytes) -> x509.Certificate:
    (certificate,) = read_certificates(pem, "certificate")
    return certificate


def _judge(node: Node, ca: Authority, server_name: str = "localhost", at: dt.datetime | None = None) -> object:
    roots = read_certificates(ca.certificate, "ca")
    return judge(_read(node.certificate), (), roots, role="server", server_name=server_name, at=at)


def test_an_identity_is_what_the_alternative_names_say() -> None:
    node = make_node(make_ca("plant"), "pump-7", ("pump.example", "10.1.2.3"))
    certificate = _read(node.certificate)
    identity = identify(certificate)
    assert (identity.fabric, identity.node) == ("plant", "pump-7")
    assert identity.names == ("pump.example", "10.1.2.3")
    assert len(bytes.fromhex(identity.fingerprint)) == 32
    assert identity.not_after == certificate.not_valid_after_utc.timestamp()
    assert describe(certificate) == "fb://plant/node/pump-7"


@pytest.mark.parametrize("uri", ["fb://plant/node/", "fb://plant/other/x", "http://plant/node/x", "fb://a/b/node/x"])
def test_a_link_of_another_shape_names_no_node(uri: str) -> None:
    identity = identify(_read(make_node(make_ca("plant"), "x", uris=(uri,)).certificate))
    assert (identity.fabric, identity.node) == ("", "")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("a.example", "a.example", True),
        ("a.example", "A.Example.", True),
        ("a.example", "b.a.example", False),
        ("*.a.example", "b.a.example", True),
        ("*.a.example", "c.b.a.example", False),
        ("*.a.example", "a.example", False),
        ("*.example", "a.example", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "0:0::1", True),
        ("a.example", "", False),
    ],
)
def test_a_server_has_the_name_it_was_called_by(pattern: str, name: str, fits: bool) -> None:
    verdict = _judge(make_node(make_ca(), "n", (pattern,)), make_ca(), name)
    assert isinstance(verdict, Identity) is fits


def test_dates_are_judged_by_the_given_time() -> None:
    node, ca = make_node(make_ca(), "n"), make_ca()
    now = dt.datetime.now(dt.UTC)
    assert isinstance(_judge(node, ca, at=now), Identity)
    late, early = _judge(node, ca, at=now + dt.timedelta(hours=24)), _judge(node, ca, at=now - dt.timedelta(hours=2))
    assert isinstance(late, Refusal)
    assert isinstance(early, Refusal)
    assert (late.alert, early.alert) == (45, 45)
    assert "expired at" in late.reason
    assert "not valid before" in early.reason


def test_a_node_signs_no_others() -> None:
    """What a node signed is not of the authority, though its chain ends there."""
    ca = make_ca()
    node = make_node(ca, "n")
    fake = make_node(ca._replace(certificate=node.certificate, key=node.key), "victim")
    roots = read_certificates(ca.certificate, "ca")
    verdict = judge(_read(fake.certificate), [_read(node.certificate)], roots, role="server", server_name="localhost")
    assert isinstance(verdict, Refusal)
    assert verdict.alert == 48


def test_a_chain_is_no_longer_than_its_limit() -> None:
    node = _read(make_node(make_ca(), "n").certificate)
    verdict = judge(node, [node] * 6, [node], role="client")
    assert verdict == Refusal(42, "certificates of a chain are at most 6, not 7")


def test_a_certificate_for_one_role_is_refused_in_the_other() -> None:
    verdict = _judge(make_node(make_ca(), "n", eku=(CLIENT,)), make_ca())
    assert isinstance(verdict, Refusal)
    assert verdict.alert == 43
    assert "fb://test/node/n is not one of a server: no serverAuth" in verdict.reason


def test_a_certificate_of_nobody_that_is_trusted_is_refused_in_a_few_words() -> None:
    verdict = _judge(make_node(make_ca("other"), "n"), make_ca())
    assert verdict == Refusal(48, "the certificate of fb://other/node/n is not of our authority")


def test_files_are_read_and_what_is_wrong_with_them_is_said(tmp_path: Path) -> None:
    node = make_node(make_ca(), "n")
    path = tmp_path / "node.pem"
    path.write_bytes(node.certificate + make_ca().certificate)
    assert len(read_certificates(path, "certificate")) == 2
    assert len(read_certificates(str(path), "certificate")) == 2
    with pytest.raises(LocalProtocolError, match=r"ca .*missing.pem: No such file"):
        read_certificates(tmp_path / "missing.pem", "ca")
    with pytest.raises(LocalProtocolError, match=r"certificate \(given as bytes\): no PEM certificate"):
        read_certificates(b"nonsense", "certificate")
    with pytest.raises(LocalProtocolError, match=r"key .*node.pem: no private key in PEM form"):
        read_key(path)


def test_a_key_of_another_certificate_is_refused() -> None:
    one, other = make_node(make_ca(), "one"), make_node(make_ca(), "other")
    check_pair(_read(one.certificate), read_key(one.key))
    with pytest.raises(LocalProtocolError, match="the key is not that of the certificate of fb://test/node/one"):
        check_pair(_read(one.certificate), read_key(other.key))
    with pytest.raises(LocalProtocolError, match="the key is not that"):
        make_acceptor(QuicSettings(certificate=one.certificate, key=other.key, ca=make_ca().certificate))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"congestion": "bbr"}, "congestion is one of reno, cubic, fb-bdp, not 'bbr'"),
        ({"engine": "quiche"}, "engine is one of auto, aioquic, qh3, not 'quiche'"),
        ({"client_certificates": "maybe"}, "client_certificates is one of require, ask, none, not 'maybe'"),
        ({"certificate": b""}, "a certificate was given without its key"),
        ({"key": b""}, "a key was given without its certificate"),
        ({"alpn": ""}, "alpn is 1 to 255 bytes, not 0"),
        ({"reset_key": b"short"}, "reset_key is 16 bytes or more, not 5"),
        ({"stream_window_bytes": 1}, "stream_window_bytes is 16384 to"),
        ({"connection_window_bytes": 1}, "connection_window_bytes is 1048576 to"),
        ({"datagram_bytes": 1_199}, "datagram_bytes is 1200 to 65000, not 1199"),
        ({"connections": 0}, "connections is 1 to"),
        ({"half_open": -1}, "half_open is 0 to"),
        ({"idle_ns": 0}, "idle_ns is"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        QuicSettings(**changes)  # type: ignore[arg-type]
