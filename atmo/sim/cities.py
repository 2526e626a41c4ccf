"""Round-trip times between ten cities of the world, as somebody measured them.

Source: IBM Cloud documentation, "Network latency dashboards" (repository `ibm-cloud-docs/vpc`, file
`_include-segments/network-latency.md`), table of 25 August 2024: average milliseconds over the 30 days before it,
between cloud regions. Within one region the same page gives 0.08 to 2.2 ms between the zones of Dallas and 0.09 to
1.99 ms between those of Toronto; a round millisecond stands here for all of them.
"""

from __future__ import annotations

CITIES = (
    "Dallas",
    "Toronto",
    "Washington DC",
    "Frankfurt",
    "London",
    "Madrid",
    "Osaka",
    "Sydney",
    "Tokyo",
    "Sao Paulo",
)

HOME_MS = 1
"""Within one city."""

RTT_MS = (
    (HOME_MS, 34, 31, 123, 113, 119, 150, 186, 143, 146),
    (34, HOME_MS, 19, 93, 82, 108, 168, 215, 162, 129),
    (31, 19, HOME_MS, 91, 75, 87, 172, 214, 164, 118),
    (123, 93, 91, HOME_MS, 13, 29, 232, 250, 233, 198),
    (113, 83, 75, 13, HOME_MS, 27, 244, 261, 243, 188),
    (122, 106, 88, 29, 27, HOME_MS, 257, 275, 258, 209),
    (150, 169, 172, 231, 243, 257, HOME_MS, 122, 9, 293),
    (186, 214, 214, 249, 261, 275, 122, HOME_MS, 115, 328),
    (143, 162, 166, 233, 244, 256, 9, 115, HOME_MS, 284),
    (144, 128, 119, 196, 187, 208, 291, 328, 283, HOME_MS),
)
"""From the city of the row to that of the column; the two directions were measured each by itself."""
