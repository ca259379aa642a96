"""Who may connect to whom, and what each side hears when it may not."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import datetime as dt
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aioquic.tls import Epoch
from cryptography import x509
from quic_certs import BOTH, CLIENT, SERVER, Node, make_ca, make_node
from quic_link import SERVER as SERVER_ADDRESS
from quic_link import Link, settings_of

from flowbridge.errors import LocalProtocolError, MissingExtraError
from flowbridge.transports.quic.engine import Closed, Connected, DatagramReceived
from flowbridge.transports.quic.engines import make_acceptor, make_client

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("quic_engine")
no_client_certificates = pytest.mark.aioquic("a server over qh3 cannot ask clients for certificates")
inside_aioquic = pytest.mark.aioquic("about what is inside aioquic")

HOSTS = ("10.0.0.1", "10.0.0.2", "localhost")
FOREIGN = make_ca("test", serial=2)
OLD = {"begins_in": dt.timedelta(hours=-3), "valid_for": dt.timedelta(hours=1)}
YOUNG = {"begins_in": dt.timedelta(hours=3), "valid_for": dt.timedelta(hours=1)}


def _using(node: Node | None, **changes: Any) -> dict[str, Any]:
    return {
        "certificate": node.certificate if node else None,
        "key": node.key if node else None,
        **changes,
    }


def _ended(link: Link, stream: int) -> Callable[[], bool]:
    return lambda: link.ended("server", stream)


def _failed(client: dict[str, Any], server: dict[str, Any] | None = None) -> tuple[Closed, Closed]:
    """What both sides hear, the client first."""
    link = Link(settings_of("client", **client), settings_of("server", **(server or {})))
    assert link.run(lambda: link.has(Closed, "client") and link.has(Closed, "server"), seconds=20)
    return link.closed("client"), link.closed("server")


CLIENTS: dict[str, tuple[Callable[[], Node | None], int, str]] = {
    "nothing": (lambda: None, 116, "no certificate"),
    "one of a foreign authority of the same name": (
        lambda: make_node(FOREIGN, "client", HOSTS),
        48,
        "fb://test/node/client is not of our authority",
    ),
    "an expired one": (lambda: make_node(make_ca(), "client", HOSTS, **OLD), 45, "fb://test/node/client expired at 20"),
    "one that is not valid yet": (lambda: make_node(make_ca(), "client", HOSTS, **YOUNG), 45, "not valid before 20"),
    "one of a server": (lambda: make_node(make_ca(), "client", HOSTS, (SERVER,)), 43, "no clientAuth in its usages"),
    "one without usages": (lambda: make_node(make_ca(), "client", HOSTS, ()), 43, "no clientAuth in its usages"),
    "one of two nodes": (
        lambda: make_node(make_ca(), "client", HOSTS, BOTH, uris=("fb://test/node/a", "fb://test/node/b")),
        42,
        "names 2 nodes",
    ),
}


@no_client_certificates
@pytest.mark.parametrize("what", CLIENTS)
def test_a_server_refuses_a_client_that_shows(what: str) -> None:
    node, alert, reason = CLIENTS[what]
    client, server = _failed(_using(node()))
    assert server == Closed(0x100 + alert, server.reason, by_application=False, is_remote=False)
    assert client == Closed(0x100 + alert, server.reason, by_application=False, is_remote=True)
    assert reason in server.reason


@no_client_certificates
def test_a_server_refuses_a_certificate_whose_key_the_client_has_not() -> None:
    other = make_node(make_ca(), "other", HOSTS)
    thief = settings_of("client", certificate=other.certificate, key=other.key)
    theirs = make_node(make_ca(), "client", HOSTS)
    link = Link(thief)
    link.client.connection.tls.certificate = x509.load_pem_x509_certificate(theirs.certificate)
    assert link.run(lambda: link.has(Closed, "server"), seconds=20)
    assert link.closed("server").code == 0x100 + 51  # decrypt_error
    assert not link.has(Connected, "server")


SERVERS: dict[str, tuple[Callable[[], Node], dict[str, Any], int, str]] = {
    "for another host": (
        lambda: make_node(make_ca(), "server", ("elsewhere.example",)),
        {},
        42,
        "is for elsewhere.example, not for '10.0.0.1'",
    ),
    "without the name that was asked for": (
        lambda: make_node(make_ca(), "server", HOSTS),
        {"server_name": "wanted.example"},
        42,
        "not for 'wanted.example'",
    ),
    "of a foreign authority of the same name": (
        lambda: make_node(FOREIGN, "server", HOSTS),
        {},
        48,
        "is not of our authority: signature does not match",
    ),
    "that expired": (lambda: make_node(make_ca(), "server", HOSTS, **OLD), {}, 45, "expired at 20"),
    "of a client": (lambda: make_node(make_ca(), "server", HOSTS, (CLIENT,)), {}, 43, "no serverAuth in its usages"),
}


@pytest.mark.parametrize("what", SERVERS)
def test_a_client_refuses_a_server_with_a_certificate(what: str) -> None:
    node, changes, alert, reason = SERVERS[what]
    client, server = _failed(changes, _using(node()))
    assert client == Closed(0x100 + alert, client.reason, by_application=False, is_remote=False)
    assert server == Closed(0x100 + alert, client.reason, by_application=False, is_remote=True)
    assert reason in client.reason


def test_peers_without_a_common_protocol_say_so() -> None:
    client, server = _failed({"alpn": "fb/9"})
    assert client.code == server.code == 0x100 + 120
    assert "application protocol" in client.reason
    assert "ours is fb/9" in client.reason
    assert "ours is fb/1" in server.reason


def test_a_client_knows_who_its_server_is() -> None:
    link = Link().connect()
    (server,) = [e.identity for e in link.client_events if isinstance(e, Connected)]
    assert server is not None
    assert (server.fabric, server.node) == ("test", "server")
    assert "10.0.0.1" in server.names


@inside_aioquic
def test_nobody_gets_through_unjudged_though_the_check_was_never_called() -> None:
    link = Link()
    original = link.client.connection.tls._set_peer_certificate
    tls = link.client.connection.tls

    def skip(certificate: Any) -> None:
        original(certificate)
        tls.peer_identity = None

    tls._set_peer_certificate = skip  # type: ignore[method-assign]
    assert link.run(lambda: link.has(Closed, "client"), seconds=5)
    assert not link.has(Connected, "client")
    assert link.closed("client").code == 0x1
    assert link.client.faults == 1


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u20ac", "\U0001f4a1"])
def test_a_long_reason_of_any_letters_arrives(letter: str) -> None:
    link = Link().connect()
    link.client.close(5, letter * 1_000)
    assert link.run(lambda: link.has(Closed, "server"), seconds=5)
    assert link.closed("server").code == 5
    assert set(link.closed("server").reason) <= {letter}


def test_a_reason_with_controls_is_told_without_them() -> None:
    link = Link().connect()
    link.client.close(5, "a\n\x1b[31mb")
    assert link.run(lambda: link.has(Closed, "server"), seconds=5)
    assert link.closed("server").reason == "a??[31mb"


def test_a_certificate_of_endless_names_is_refused_in_few_words() -> None:
    hosts = tuple(f"{'x' * 50}{n}.example" for n in range(20))
    client, server = _failed({}, _using(make_node(make_ca(), "server", hosts)))
    assert client.code == server.code == 0x100 + 42
    assert len(client.reason) < 200
    assert server.reason == client.reason


@no_client_certificates
def test_both_sides_know_who_the_other_is() -> None:
    link = Link().connect()
    (server,) = [e.identity for e in link.client_events if isinstance(e, Connected)]
    (client,) = [e.identity for e in link.server_events if isinstance(e, Connected)]
    assert server is not None
    assert client is not None
    assert (server.fabric, server.node) == ("test", "server")
    assert (client.fabric, client.node) == ("test", "client")
    assert "10.0.0.1" in server.names


@pytest.mark.parametrize("policy", [pytest.param("ask", marks=no_client_certificates), "none"])
def test_a_server_may_do_without_certificates_of_clients(policy: str) -> None:
    link = Link(settings_of("client", **_using(None)), settings_of("server", client_certificates=policy)).connect()
    assert Connected(None) in link.server_events


@no_client_certificates
def test_a_server_that_only_asks_still_refuses_a_wrong_certificate() -> None:
    client, _ = _failed(_using(make_node(FOREIGN, "client", HOSTS)), {"client_certificates": "ask"})
    assert client.code == 0x100 + 48


def test_a_server_that_does_not_ask_needs_no_authority() -> None:
    Link(server=settings_of("server", client_certificates="none", ca=None)).connect()


def test_a_name_of_the_settings_stands_for_the_address() -> None:
    Link(
        settings_of("client", server_name="a.nodes.example"),
        settings_of("server", **_using(make_node(make_ca(), "server", ("*.nodes.example",)))),
    ).connect()


def test_no_ticket_is_given_and_none_is_taken() -> None:
    link = Link().connect()
    link.run(seconds=1)
    assert link.server is not None
    assert link.server.connection.tls.new_session_ticket_cb is None
    assert link.server.connection.tls.get_session_ticket_cb is None
    assert link.server.connection.tls._new_session_ticket is None
    assert link.client.connection.tls.new_session_ticket_cb is None


def test_a_close_is_heard_with_its_code_and_reason() -> None:
    link = Link().connect()
    link.client.close(0x805, "done " + "x" * 1000)
    assert link.run(lambda: link.has(Closed, "server"))
    here, there = link.closed("client"), link.closed("server")
    assert (here.code, here.by_application, here.is_remote) == (0x805, True, False)
    assert (there.code, there.by_application, there.is_remote) == (0x805, True, True)
    assert len(there.reason) == 256


def test_nothing_happens_after_the_end() -> None:
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    link.client.close()
    link.run(seconds=1)
    count = len(link.client_events)
    assert link.client.timer() is None
    assert link.client.open() is None
    assert link.client.write(stream, b"x") == 0
    assert link.client.send_datagram(b"x") is False
    link.client.consume(stream, 1)
    link.client.stop(stream, 1)
    link.client.reset(stream, 1)
    link.client.ping()
    link.client.close()
    link.client.on_timer(link.now + 100)
    link.client.receive(b"x" * 50, SERVER_ADDRESS, link.now)
    assert link.client.transmit(link.now) == ()
    link.run(seconds=1)
    assert len(link.client_events) == count


def test_a_peer_that_is_silent_times_out() -> None:
    link = Link(settings_of("client", idle_ns=2 * 10**9)).connect()
    link.filter = lambda _data, _source: None
    link.client.ping()
    link.run(seconds=10)
    for side in ("client", "server"):  # the smaller of both timeouts counts
        closed = link.closed(side)
        assert (closed.code, closed.is_timeout, closed.is_remote) == (0, True, False)
    assert "2 s" in link.closed("client").reason


def _phase(engine: Any) -> int:
    if engine.caps.name == "qh3":
        return int(engine.connection.core.send_key_phase)
    return int(engine.connection._cryptos[Epoch.ONE_RTT].key_phase)


def test_keys_are_renewed_by_age_and_both_go_on() -> None:
    link = Link(settings_of("client", idle_ns=10**14), settings_of("server", idle_ns=10**14)).connect()
    link.run(seconds=1)
    phases: list[int] = []
    for _ in range(9):
        link.now += 1000
        stream = link.client.open(unidirectional=True)
        assert stream is not None
        link.client.write(stream, b"x" * 3000, fin=True)
        assert link.run(_ended(link, stream), seconds=10)
        phases.append(_phase(link.client))
    assert phases == [0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert not link.has(Closed, "client")


def test_datagrams_arrive_up_to_their_limit_and_larger_ones_do_no_harm() -> None:
    link = Link().connect()
    most = link.client.caps.datagram_bytes_max
    assert link.client.send_datagram(bytes(most))
    assert not link.client.send_datagram(bytes(most + 1))
    assert not link.client.send_datagram(bytes(100_000))
    assert link.client.send_datagram(b"after")
    link.run(seconds=1)
    got = [event.data for event in link.server_events if isinstance(event, DatagramReceived)]
    assert got == [bytes(most), b"after"]


def test_datagrams_that_nobody_fetches_are_refused_at_last() -> None:
    link = Link().connect()
    sent = [link.client.send_datagram(b"x") for _ in range(100)]
    assert sent == [True] * 64 + [False] * 36


USED = {  # qh3 leaves room for a longer connection id and packet number
    "aioquic": {1_200: 1_200, 16_300: 16_300, 65_000: 16_300},
    "qh3": {1_200: 1_171, 16_300: 16_271, 65_000: 64_973},
}


@pytest.mark.parametrize("given", [1_200, 16_300, 65_000])
def test_packets_are_as_large_as_the_engine_can_send(given: int, quic_engine: str) -> None:
    link = Link(settings_of("client", datagram_bytes=given), settings_of("server", datagram_bytes=given)).connect()
    link.run(seconds=1)
    sizes: set[int] = set()

    def note(data: bytes, _: object) -> bytes:
        sizes.add(len(data))
        return data

    link.filter = note
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, bytes(400_000), fin=True)
    assert link.run(lambda: link.ended("server", stream))
    assert max(sizes) == USED[quic_engine][given]


def test_an_exception_inside_closes_and_is_counted(caplog: pytest.LogCaptureFixture, quic_engine: str) -> None:
    link = Link().connect()

    def fail(_: float) -> object:
        raise ZeroDivisionError("inside")

    link.client.connection.datagrams_to_send = fail  # type: ignore[assignment]
    assert link.client.transmit(link.now) == ()
    (closed,) = link.client.events()
    assert closed == Closed(0x1, "ZeroDivisionError in transmit", by_application=False, is_remote=False)
    assert link.client.faults == 1
    assert f"{quic_engine} failed in transmit" in caplog.text


@inside_aioquic
def test_an_exception_about_a_strangers_packet_costs_that_packet() -> None:
    link = Link().connect()
    connection = link.client.connection
    original = connection._find_network_path

    def fail(_: object) -> Any:
        raise ZeroDivisionError("inside")

    connection._find_network_path = fail  # type: ignore[method-assign, assignment]
    link.client.receive(b"\x40" + connection.host_cid + bytes(40), SERVER_ADDRESS, link.now)
    connection._find_network_path = original  # type: ignore[method-assign]
    assert (link.client.dropped, link.client.faults) == (1, 0)
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"x", fin=True)
    assert link.run(lambda: link.ended("server", stream))


@inside_aioquic
def test_a_clock_that_stands_still_does_not_keep_a_timer_due_for_ever() -> None:
    """aioquic arms its loss timer by `sent + delay` and fires by `now - delay`, which may differ in the last bit."""
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"lost")
    link.client.transmit(link.now)
    recovery = link.client.connection._loss
    chance = random.Random(1)
    while True:
        sent, rtt = link.now + chance.random(), chance.random() / 20
        delay = 9 / 8 * rtt
        if sent + delay - delay < sent:
            break
    recovery._rtt_latest = recovery._rtt_smoothed = rtt
    space = recovery.spaces[-1]
    number, packet = list(space.sent_packets.items())[-1]
    packet.sent_time, space.loss_time, space.largest_acked_packet = sent, sent + delay, number + 1
    assert link.client.timer() == sent + delay
    link.client.on_timer(sent + delay)
    assert number not in space.sent_packets
    assert link.client.timer() != sent + delay


@inside_aioquic
def test_a_certificate_that_aioquic_stumbles_over_ends_the_handshake_for_both() -> None:
    """Its own check of names does not expect a wildcard of a top-level domain, and raises what it does not catch."""
    node = make_node(make_ca(), "server", ("*.example", "10.0.0.1", "node.example"))
    link = Link(settings_of("client", server_name="node.example"), settings_of("server", **_using(node)))
    assert link.run(lambda: link.has(Closed, "server"), seconds=5)
    assert link.closed("client") == Closed(0x1, "CertificateError in receive", by_application=False, is_remote=False)
    assert link.closed("server") == Closed(0x1, "CertificateError in receive", by_application=False, is_remote=True)
    assert link.client.faults == 1


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qh3", None)
    with pytest.raises(MissingExtraError, match="qh3"):
        make_client(settings_of("client", engine="qh3"), SERVER_ADDRESS, 0.0)
    with pytest.raises(MissingExtraError, match="qh3"):
        make_acceptor(settings_of("server", engine="qh3"))


def test_what_a_side_needs_is_asked_for() -> None:
    with pytest.raises(LocalProtocolError, match="a client needs a ca"):
        make_client(settings_of("client", ca=None), SERVER_ADDRESS, 0.0)
    with pytest.raises(LocalProtocolError, match="an acceptor needs a certificate"):
        make_acceptor(settings_of("server", **_using(None)))


@no_client_certificates
def test_a_server_that_asks_needs_an_authority() -> None:
    with pytest.raises(LocalProtocolError, match="an acceptor needs a ca"):
        make_acceptor(settings_of("server", ca=None))
