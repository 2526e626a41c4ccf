"""Which addresses of this machine count."""

from __future__ import annotations

import ipaddress

import ifaddr
import pytest

from atmo.net.interfaces import lan_interfaces, reachable_addresses


def adapter(name: str, *ips: tuple[str, int]) -> ifaddr.Adapter:
    made = [ifaddr.IP((ip, 0, 0) if ":" in ip else ip, prefix, name) for ip, prefix in ips]
    return ifaddr.Adapter(name, name, made, index=1)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [
        adapter("lo", ("127.0.0.1", 8), ("::1", 128)),
        adapter("docker0", ("172.17.0.1", 16)),
        adapter("eth0", ("192.168.7.5", 24), ("fd00:7::5", 64), ("fe80::5", 64)),
        adapter("eth1", ("169.254.3.4", 16)),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)


def test_the_lan_of_a_socket() -> None:
    four = ["169.254.3.4/16", "192.168.7.5/24"]
    assert [str(entry) for entry in lan_interfaces("0.0.0.0")] == four
    assert [str(entry) for entry in lan_interfaces("::")] == [*four, "fd00:7::5/64", "fe80::5/64"]
    assert lan_interfaces("192.168.7.5") == (ipaddress.ip_interface("192.168.7.5/24"),)
    assert lan_interfaces("127.0.0.1") == ()
    assert lan_interfaces("10.1.1.1") == ()


def test_where_others_reach_a_socket() -> None:
    assert [str(address) for address in reachable_addresses("0.0.0.0", 5)] == ["192.168.7.5:5"]
    assert {str(address) for address in reachable_addresses("::", 5)} == {"192.168.7.5:5", "[fd00:7::5]:5"}
    assert [str(address) for address in reachable_addresses("127.0.0.1", 5)] == ["127.0.0.1:5"]
    assert reachable_addresses("0.0.0.0", 0) == ()
