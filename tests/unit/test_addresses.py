"""Addresses of hosts: what is one, and what is said of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.addresses import NodeAddress, PeerIdentity, check_node_name, parse_address, parse_nodes
from flowbridge.errors import LocalProtocolError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("quic://edge-1:4433", "edge-1", 4433),
        ("quic://edge-1.example.:1", "edge-1.example.", 1),
        ("quic://127.0.0.1:65535", "127.0.0.1", 65535),
        ("quic://[::1]:4433", "::1", 4433),
        ("quic://[fe80::1%eth0]:4433", "fe80::1%eth0", 4433),
    ],
)
def test_an_address_has_scheme_host_and_port(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == NodeAddress(host, port, "quic")
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("edge-1:4433", "has no scheme; write quic://HOST:PORT"),
        ("tcp://edge-1:4433", "scheme 'tcp' is not known; known: quic"),
        ("quic://edge-1", "has no port; write quic://edge-1:PORT"),
        ("quic://[::1]", "has no port"),
        ("quic://edge-1:0", "port 0 is only for listening"),
        ("quic://0.0.0.0:4433", "0.0.0.0 is only for listening; write where to reach it"),
        ("quic://[::]:4433", ":: is only for listening"),
        ("quic://edge-1:65536", "is not a number of 1..65535"),
        ("quic://edge-1:http", "is not a number"),
        ("quic://edge-1:\u0663", "is not a number"),
        ("quic://:4433", "has no host"),
        ("quic://::1:4433", "stands in brackets"),
        ("quic://a b:4433", "is neither a host name nor an address"),
        ("quic://user@h:4433", "is neither a host name nor an address"),
        ("quic://[x]:4433", "is neither a host name nor an address"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, why: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        parse_address(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_port_0_takes_a_free_one_when_listening() -> None:
    assert parse_address("quic://0.0.0.0:0", listening=True).port == 0


@given(st.text())
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        address = parse_address(text)
    except LocalProtocolError:
        return
    assert parse_address(str(address)) == address


@given(st.text(max_size=12).map(lambda rest: f"quic://{rest}"))
def test_any_rest_is_an_address_or_one_error(text: str) -> None:
    test_any_text_is_an_address_or_one_error.hypothesis.inner_test(text)  # type: ignore[attr-defined]


def test_the_host_whose_address_is_wrong_is_named() -> None:
    with pytest.raises(LocalProtocolError, match="host edge-1: address 'quic://h' has no port"):
        parse_nodes({"edge-1": "quic://h"})


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "*", "x" * 129, "ä"])
def test_a_name_that_cannot_stand_in_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="host name"):
        check_node_name(name)


def test_an_identity_reads_as_in_the_certificate() -> None:
    assert str(PeerIdentity("dev", "edge-1")) == "fb://dev/node/edge-1"
