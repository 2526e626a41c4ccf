"""Which router is the default one, as Linux tells it, and as it is guessed elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from atmo.net import gateways

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ANY, LINK_LOCAL = "0" * 32, "fe80000000000000021122fffe334455"


def four(device: str, target: str, gateway: str, flags: str, metric: int, mask: str = "00000000") -> str:
    return f"{device}\t{target}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def six(target: str, bits: str, gateway: str, metric: str, flags: str, device: str = "eth0") -> str:
    return f"{target} {bits} {ANY} 00 {gateway} {metric} 00000001 00000000 {flags} {device}\n"


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    files = tmp_path / "route", tmp_path / "ipv6_route"
    monkeypatch.setattr(gateways, "_ROUTE4", files[0])
    monkeypatch.setattr(gateways, "_ROUTE6", files[1])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "byteorder", "little")
    return files


def test_the_default_route_with_the_lowest_metric(routes: tuple[Path, Path]) -> None:
    routes[0].write_text(
        HEAD
        + four("eth0", "0002A8C0", "00000000", "0001", 0, "00FFFFFF")
        + four("wlan0", "00000000", "0102A8C0", "0003", 600)
        + four("eth0", "00000000", "FE01A8C0", "0003", 100)
    )
    routes[1].write_text(
        six("fd" + "0" * 30, "40", ANY, "00000100", "00000001")
        + six(ANY, "00", LINK_LOCAL, "00000400", "00450003")
        + six(ANY, "00", "20010db8" + "0" * 23 + "1", "00000800", "00000003")
        + six(ANY, "00", ANY, "ffffffff", "00200200", "lo")
    )
    assert gateways.default_gateways() == ("192.168.1.254", "fe80::211:22ff:fe33:4455%eth0")


def test_a_tunnel_has_no_router(routes: tuple[Path, Path]) -> None:
    routes[0].write_text(
        HEAD + four("wg0", "00000000", "00000000", "0001", 0) + four("eth0", "00000000", "FE01A8C0", "0003", 100)
    )
    routes[1].write_text(six(ANY, "00", ANY, "00000001", "00000001", "wg0"))
    assert gateways.default_gateways() == ()


def test_no_files_and_no_routes(routes: tuple[Path, Path]) -> None:
    assert gateways.default_gateways() == ()
    routes[0].write_text(HEAD)
    routes[1].write_text("")
    assert gateways.default_gateways() == ()


def test_elsewhere_it_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert len(gateways.default_gateways()) <= 1
