"""Kinds of NAT, and the nftables rules that make a router one of them."""

from __future__ import annotations

PORT = 11_450

KINDS = ("none", "full", "address", "port", "symmetric", "double", "hairpin", "blocked")
"""`none`: a public address. `full`, `address`, `port`: a NAT that keeps one mapping for a socket and lets in anyone, or
those addresses, or those addresses and ports, to which something went out (RFC 4787's endpoint-independent mapping
with the three kinds of filtering). `symmetric`: another random port for each destination. `double`: a `port` NAT behind
another. `hairpin`: two of them are on the same LAN, behind one `port` NAT through whose outside they do not reach each
other. `blocked`: a `port` NAT that lets no UDP out."""

CUT = """
    table ip cut {
        chain through {
            type filter hook forward priority -10
            meta l4proto udp drop
        }
    }
"""

REBOUND = """
    flush chain ip lab after
    add rule ip lab after oifname wan meta l4proto udp masquerade to :{port}
    add rule ip lab after oifname wan masquerade
"""


def possible(one: str, two: str) -> bool:
    """Says whether a direct path between machines behind two kinds can be had in principle, ports being foreseen."""
    return "blocked" not in (one, two) and (one, two) != ("symmetric", "symmetric")


def nat_rules(kind: str, outside: str, inside: str) -> str:
    """Returns the rules of a router: what comes from inside is masked, and only answers come in, or what the kind lets
    in; nothing comes back in that was sent to the outside from inside.

    Args:
        kind: Of NAT.
        outside: The router's public address.
        inside: The machine behind it.
    """
    let_in = {
        "full": f"iifname wan udp dport {PORT} dnat to {inside}",
        "address": f"iifname wan udp dport {PORT} ip saddr @spoken dnat to {inside}",
    }.get(kind, "")
    note = "oifname wan meta l4proto udp update @spoken { ip daddr }" if kind == "address" else ""
    blocked = "oifname wan meta l4proto udp drop" if kind == "blocked" else ""
    mapping = " fully-random" if kind == "symmetric" else ""
    return f"""
        table ip lab {{
            set spoken {{
                type ipv4_addr
                size 1024
                flags dynamic, timeout
                timeout 2m
            }}
            chain before {{
                type nat hook prerouting priority -100
                {let_in}
            }}
            chain after {{
                type nat hook postrouting priority 100
                oifname wan masquerade{mapping}
            }}
            chain through {{
                type filter hook forward priority 0
                policy drop
                {note}
                {blocked}
                ct state established,related accept
                iifname lan accept
                ct status dnat accept
            }}
            chain local {{
                type filter hook input priority 0
                iifname wan drop
                iifname lan ip daddr {outside} drop
            }}
        }}
    """
