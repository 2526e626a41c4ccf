"""What a node finds out about its NAT: in memory behind NATs of all kinds, on loopback, and from coturn."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atmo.net.natwatch import NatWatch, NatWatchConfig
from atmo.net.quic import Endpoint, open_endpoint
from atmo.net.stun_message import encode_request
from atmo.reach.nat import NatConfig
from atmo.reach.prediction import ADDRESS, ENDPOINT, NONE, PORT, UNKNOWN
from atmo.wire.address import Address
from tests.net.nats import INSIDE, OUTSIDE, NatSocket, full_server, plain_server
from tests.net.pair import ALICE, BOB

A, A_TOO = Address("11.0.0.1", 3478), Address("12.0.0.1", 3479)
B, B_TOO = Address("13.0.0.1", 3478), Address("14.0.0.1", 3479)
MEMBERS = [Address(f"20.0.{number}.1", 7) for number in range(8)]
HOLE = Address(OUTSIDE, 40_000)
PLAIN = NatWatchConfig()
LATER_S = PLAIN.quiet_s + PLAIN.pause_s + 60
"""When the filtering was tested."""


@asynccontextmanager
async def watch(
    sock: NatSocket,
    servers: Iterable[Address] = (),
    members: Iterable[Address] = (),
    own: Callable[[], Iterable[Address]] = lambda: [INSIDE],
) -> AsyncIterator[tuple[NatWatch, Endpoint]]:
    async with (
        open_endpoint(ALICE, INSIDE.host, INSIDE.port, open_socket=sock.open) as endpoint,
        trio.open_nursery() as nursery,
    ):
        names = [(server.host, server.port) for server in servers]
        watching = NatWatch(endpoint, own, names, lambda: members)
        nursery.start_soon(watching.run)
        yield watching, endpoint
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mapping", [NONE, ENDPOINT, ADDRESS, PORT])
@pytest.mark.parametrize("filtering", [ENDPOINT, ADDRESS, PORT])
async def test_one_server_with_two_addresses_tells_everything(
    mapping: str, filtering: str, autojump_clock: MockClock
) -> None:
    sock = NatSocket(full_server(A, A_TOO), mapping, filtering)
    async with watch(sock, [A]) as (watching, endpoint):
        await trio.sleep(5)
        assert (watching.report.mapping, watching.report.filtering) == (mapping, UNKNOWN)
        await trio.sleep(LATER_S)
        report = watching.report
        assert (report.mapping, report.filtering) == (mapping, filtering)
        assert report.public[-1] == (INSIDE if mapping == NONE else HOLE)
        assert set(endpoint.probing.seen) == set(report.public) - {INSIDE}
        assert watching.view() == {
            "mapping": mapping,
            "filtering": filtering,
            "public": [str(address) for address in report.public],
            "age_s": pytest.approx(60, abs=LATER_S),
        }
    assert endpoint.on_other is None


async def test_it_measures_again_and_forgets_what_is_old(autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(A, A_TOO), PORT, PORT)
    async with watch(sock, [A]) as (watching, endpoint):
        await trio.sleep(60)
        sock.mapping = ENDPOINT
        sock.reset("9.9.9.10")
        await trio.sleep(700)
        assert (watching.report.mapping, watching.report.public) == (ENDPOINT, (Address("9.9.9.10", 40_000),))
        assert watching.report.public[0] in endpoint.probing.seen
        sock.cut = True
        await trio.sleep(2_500)
        assert (watching.report.mapping, watching.view()["age_s"]) == (UNKNOWN, None)


async def test_members_with_an_address_of_the_internet_serve_as_well(autojump_clock: MockClock) -> None:
    sock = NatSocket({each: plain_server() for each in MEMBERS}, ENDPOINT, PORT)
    unfit = [Address("192.168.1.9", 7), Address("2600::9", 7), Address("127.0.0.1", 7), Address(MEMBERS[0].host, 9)]
    async with watch(sock, members=[*MEMBERS, *unfit]) as (watching, _):
        await trio.sleep(60)
        assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, UNKNOWN)
        assert watching.report.public == (HOLE,)
    assert len(sock.sent) == PLAIN.members
    assert len({address for _, address in sock.sent}) == PLAIN.members
    assert not {address for _, address in sock.sent} & set(unfit)


async def test_a_mesh_that_comes_later(autojump_clock: MockClock) -> None:
    sock = NatSocket({each: plain_server() for each in MEMBERS})
    members: list[Address] = []
    async with watch(sock, members=members) as (watching, _):
        await trio.sleep(3_000)
        assert sock.sent == []
        members += MEMBERS
        watching.hurry()
        await trio.sleep(1)
        assert watching.report.mapping == ENDPOINT


async def test_one_liar_is_outvoted(autojump_clock: MockClock) -> None:
    lie = Address("8.8.8.8", 53)
    sock = NatSocket({A: plain_server(), B: plain_server(), B_TOO: plain_server(lie)})
    async with watch(sock, [A, B, B_TOO]) as (watching, endpoint):
        await trio.sleep(60)
        assert (watching.report.mapping, watching.report.public) == (ENDPOINT, (HOLE,))
        assert set(endpoint.probing.seen) == {HOLE}


async def test_a_server_that_sees_what_cannot_be(autojump_clock: MockClock) -> None:
    sock = NatSocket({A: plain_server(Address("224.0.0.1", 1))})
    async with watch(sock, [A]) as (watching, endpoint):
        await trio.sleep(20)
        assert watching.report.public == ()
        assert watching.stats.implausible > 0
        assert not endpoint.probing.seen


@pytest.mark.parametrize("other", [Address("192.168.1.1", 53), Address("127.0.0.1", 53), Address("224.0.0.1", 53)])
async def test_no_server_has_a_node_send_into_its_own_network(other: Address, autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(A, other))
    async with watch(sock, [A]) as (watching, _):
        await trio.sleep(60)
        assert watching.report.filtering == UNKNOWN
    assert {address for _, address in sock.sent} == {A}


async def test_members_are_not_trusted_with_another_address(autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(MEMBERS[0], A_TOO))
    async with watch(sock, members=MEMBERS[:1]) as (watching, _):
        await trio.sleep(60)
        assert watching.stats.answers_in == 1
    assert {address for _, address in sock.sent} == {MEMBERS[0]}


async def test_no_filtering_test_where_the_nat_may_still_let_the_answer_in(autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(A, A_TOO), ENDPOINT, PORT)
    async with watch(sock, [A, A_TOO]) as (watching, _):
        for _ in range(10):
            watching.hurry()
            await trio.sleep(30)
            assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, UNKNOWN)
        await trio.sleep(LATER_S)
        assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, PORT)


async def test_answers_that_are_not_let_in_do_not_spoil_the_mapping(autojump_clock: MockClock) -> None:
    """As Linux has it: what came from there is a connection of its own, and has the port."""
    sock = NatSocket(full_server(A, A_TOO), ENDPOINT, PORT, linux=True)
    async with watch(sock, [A]) as (watching, _):
        await trio.sleep(LATER_S)
        assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, PORT)
        assert sock.kept_out > 0


async def test_whoever_wants_to_know_now(autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(A, A_TOO), ENDPOINT, PORT)
    async with watch(sock, [A]) as (watching, _):
        expected = {str(A): True}
        assert await watching.ask_all() == expected, "while the first measurement is under way"
        await trio.sleep(60)
        before = watching.stats.asked
        assert await watching.ask_all() == expected
        assert watching.stats.asked == before + 1
        await trio.sleep(PLAIN.quiet_s - 55)
        before = watching.stats.asked
        assert await watching.ask_all() == expected
        assert watching.stats.asked == before, "the filtering is being tested"


async def test_a_server_that_is_gone_does_not_show_a_filter(autojump_clock: MockClock) -> None:
    sock = NatSocket(full_server(A, A_TOO))
    async with watch(sock, [A]) as (watching, _):
        await trio.sleep(5)
        assert watching.report.mapping == ENDPOINT
        sock.cut = True
        await trio.sleep(LATER_S)
        assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, UNKNOWN)


async def test_a_server_that_refuses_tests(autojump_clock: MockClock) -> None:
    hosts = full_server(A, A_TOO)
    honest = hosts[A]
    hosts[A] = lambda data, source, here: (
        [(A_TOO, b"\1\x11\0\0" + data[4:20])] if len(data) > 20 else honest(data, source, here)
    )
    async with watch(NatSocket(hosts), [A]) as (watching, _):
        await trio.sleep(LATER_S)
        assert (watching.report.mapping, watching.report.filtering) == (ENDPOINT, UNKNOWN)
        assert watching.stats.refusals_in == 1


async def test_another_network(autojump_clock: MockClock) -> None:
    own = [INSIDE]
    sock = NatSocket({A: plain_server(), B: plain_server()})
    async with watch(sock, [A, B], own=lambda: own) as (watching, endpoint):
        await trio.sleep(60)
        assert watching.report.mapping == ENDPOINT
        sock.reset("9.9.9.10")
        endpoint.probing.seen[Address("9.9.9.9", 5)] += 100
        before = watching.stats.asked
        watching.look_again()
        await trio.sleep(20)
        assert watching.stats.asked == before, "nothing has changed"
        own[:] = [Address("10.0.0.2", 7)]
        watching.look_again()
        await trio.sleep(5)
        assert watching.report.public == (Address("9.9.9.10", 40_000),)
        assert set(endpoint.probing.seen) == {Address("9.9.9.10", 40_000)}


async def test_a_server_that_refuses(autojump_clock: MockClock) -> None:
    refuse = {A: lambda data, source, here: [(here, b"\1\x11\0\0" + data[4:20])]}
    async with watch(NatSocket(refuse | {B: plain_server()}), [A, B]) as (watching, _):
        await trio.sleep(5)
        assert watching.asked == {str(A): False, str(B): True}
        assert watching.report.public == (HOLE,)


async def test_nobody_answers(autojump_clock: MockClock) -> None:
    sock = NatSocket()
    async with watch(sock, [A]) as (watching, endpoint):
        await trio.sleep(3_600)
        assert watching.report.mapping == UNKNOWN
        assert watching.stats.silent == watching.stats.asked > 5
        assert len(sock.sent) < 80
        assert not endpoint.probing.seen


async def test_what_others_saw_is_bounded(autojump_clock: MockClock) -> None:
    sock = NatSocket({A: plain_server(), B: plain_server()})
    async with watch(sock, [A, B]) as (_, endpoint):
        for number in range(16):
            endpoint.probing.seen[Address(OUTSIDE, 1 + number)] += 1
        await trio.sleep(5)
        assert len(endpoint.probing.seen) == 16
        assert HOLE in endpoint.probing.seen


class Names(trio.abc.HostnameResolver):
    """Knows one name."""

    async def getaddrinfo(self, host: object, port: object, *rest: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        await trio.lowlevel.checkpoint()
        if host == b"slow.example":
            await trio.sleep_forever()
        if host != b"stun.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        four = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (each, A.port)) for each in (A.host, B.host)]
        return [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2600::1", A.port, 0, 0)), *four]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_names_of_servers(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    sock = NatSocket({A: plain_server(), B: plain_server()})
    async with open_endpoint(ALICE, INSIDE.host, INSIDE.port, open_socket=sock.open) as endpoint:
        names = [("slow.example", 1), ("gone.example", 1), ("stun.example", 3478)]
        watching = NatWatch(endpoint, lambda: [INSIDE], names)
        with trio.move_on_after(20):
            await watching.run()
        assert watching.report.public == (HOLE,)
        assert watching.asked == {"slow.example:1": False, "gone.example:1": False, "stun.example:3478": True}
    assert {address for _, address in sock.sent} == {A}, "one for each IP version that the socket has"


async def test_too_many_servers(autojump_clock: MockClock) -> None:
    async with open_endpoint(ALICE, INSIDE.host, INSIDE.port, open_socket=NatSocket().open) as endpoint:
        with pytest.raises(ValueError, match="17 STUN servers are more than 16"):
            NatWatch(endpoint, tuple, [("x", 1)] * 17)


# Real sockets


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_two_nodes_on_loopback(host: str) -> None:
    async with (
        open_endpoint(ALICE, host, 0) as alice,
        open_endpoint(BOB, host, 0) as bob,
        trio.open_nursery() as nursery,
    ):
        own = Address("127.0.0.1", alice.local_address.port)
        server = NatWatch(bob, tuple)
        client = NatWatch(alice, lambda: [own], [("127.0.0.1", bob.local_address.port)])
        nursery.start_soon(server.run)
        nursery.start_soon(client.run)
        with trio.fail_after(5):
            while client.report.mapping == UNKNOWN:
                await trio.sleep(0.01)
        assert (client.report.mapping, client.report.public) == (NONE, (own,))
        assert (server.stats.served, client.stats.answers_in) == (1, 1)
        connection = await alice.dial(Address("127.0.0.1", bob.local_address.port), bob.node_id, 5)
        assert connection.node_id == bob.node_id
        nursery.cancel_scope.cancel()


def pair_of(address: Address) -> tuple[str, int]:
    return address.host, address.port


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn's `turnserver` is not installed")
async def test_coturn(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    flags = ["--stun-only", "--no-auth", "--no-tls", "--no-dtls", "--no-tcp", "--no-cli", "--fingerprint"]
    places = ["-L", "127.0.0.1", "-L", "127.0.0.2", "-p", str(port), f"--alt-listening-port={other}"]
    files = [f"--pidfile={tmp_path}/pid", f"--db={tmp_path}/db", f"--log-file={tmp_path}/log", "-n"]
    with subprocess.Popen(  # noqa: ASYNC220
        ["turnserver", *flags, *places, *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
    ) as process:
        try:
            async with open_endpoint(ALICE, "127.0.0.1", 0) as endpoint, trio.open_nursery() as nursery:
                own = endpoint.local_address
                quick, soon = NatWatchConfig(quiet_s=0.1), NatConfig(retry_s=0.5)
                watching = NatWatch(endpoint, lambda: [own], [("127.0.0.1", port)], config=quick, nat=soon)
                nursery.start_soon(watching.run)
                with trio.fail_after(30):
                    while watching.report.filtering == UNKNOWN:
                        await trio.sleep(0.05)
                assert (watching.report.mapping, watching.report.filtering) == (NONE, ENDPOINT)
                assert watching.report.public == (own,)
                assert watching.stats.dropped_malformed == 0
                nursery.cancel_scope.cancel()
        finally:
            process.kill()


async def test_whoever_asks_is_answered() -> None:
    async with open_endpoint(BOB, "127.0.0.1", 0) as bob, trio.open_nursery() as nursery:
        nursery.start_soon(NatWatch(bob, lambda: [bob.local_address]).run)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            await sock.sendto(b"\0\1garbage", pair_of(bob.local_address))
            await sock.sendto(encode_request(bytes(12)), pair_of(bob.local_address))
            with trio.fail_after(5):
                answer = await sock.recv(2_000)
            assert answer[:2] == b"\1\1"
        nursery.cancel_scope.cancel()
