"""The scenarios by name."""

from __future__ import annotations

from natlab_lab.asking import requests, wifi
from natlab_lab.downloads import Scenario, download, relay_dies

SCENARIOS: dict[str, Scenario] = {
    "download": download,
    "relay-dies": relay_dies,
    "requests": requests,
    "wifi": wifi,
}
