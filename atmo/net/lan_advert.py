"""What a node says of itself on its LAN, and what may be believed of such words: nothing but where to try a dial.

The instance name of the service is the node's id; the port is in its SRV record, the addresses are in A and AAAA
records, all else is in TXT records (RFC 6763 section 6). Whoever is on the LAN can write any of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.net.interfaces import Interface
from atmo.trust.certificate import valid_name
from atmo.trust.genesis import MESH_ID_BYTES
from atmo.wire.address import CONTACT_ADDRESSES, Address

SERVICE_TYPE = "_atmo._udp.local."
VERSION = 1
"""Of the protocol between nodes, the number in the ALPN `atmo/1`."""
TXT_BYTES = 1_024
"""The most that is read of TXT records. Source: RFC 6763 section 6.2 advises 400 bytes; ours take up to 520."""
TEXT_BYTES = 200
"""The most of a name, in UTF-8: what is longer is cut. Source: a string of a TXT record has up to 255 bytes."""
_ADDRESSES_READ = 32
"""Addresses of one advert that are looked at. Source: guess; a machine has a few on one LAN."""
_VERSIONS = 999

_INSTANCE = re.compile(r"([a-z2-7]{52})\._atmo\._udp\.local\.", re.IGNORECASE)
_NUMBER = re.compile(r"[1-9][0-9]{0,2}")
_MESH = re.compile(rf"[0-9a-f]{{{2 * MESH_ID_BYTES}}}")


@dataclass(frozen=True, slots=True)
class Advert:
    """What one node says of itself. Unsigned: a hint.

    Attributes:
        node: Its id.
        name: For people.
        port: Of its UDP socket.
        mesh: The id of its mesh, None where it says of none.
        mesh_name: For people, empty without a mesh.
        version: Of the protocol that it speaks.
        addresses: Where it listens; the node's own advert leaves them to whoever knows the interfaces.
    """

    node: NodeId
    name: str
    port: int
    mesh: bytes | None = None
    mesh_name: str = ""
    version: int = VERSION
    addresses: tuple[Address, ...] = ()

    def txt(self, tag: str = "") -> bytes:
        """Returns the TXT records: `v`, `name`, and `mesh` and `meshname` where there is a mesh; then a `tag`."""
        fields = [("v", str(self.version)), ("name", self.name), ("tag", tag)]
        if self.mesh is not None:
            fields += [("mesh", self.mesh.hex()), ("meshname", self.mesh_name)]
        strings = (f"{key}={value}".encode()[: len(key) + 1 + TEXT_BYTES] for key, value in fields)
        whole = (string.decode(errors="ignore").encode() for string in strings)  # no half characters
        return b"".join(bytes([len(string)]) + string for string in whole)


def node_of_untrusted(instance: str) -> NodeId:
    """Returns of whom the name of a service speaks.

    Raises:
        WireError: It is no node's.
    """
    match = _INSTANCE.fullmatch(instance)
    if match is None:
        raise WireError("the name of a service is not a node's id")
    return NodeId.parse(match[1].lower())


def parse_advert_untrusted(
    node: NodeId, port: int | None, txt: bytes, addresses: Iterable[str], interfaces: tuple[Interface, ...]
) -> Advert:
    """Reads what somebody says of a node.

    Args:
        node: Of whom.
        port: Of the SRV record.
        txt: The TXT records.
        addresses: Of the A and AAAA records; those that are not on a network of `interfaces` are left out, so that
            nobody makes this node send to machines elsewhere.
        interfaces: Over which the words came.

    Raises:
        WireError: They are no advert.
    """
    if port is None or not 0 < port < 65_536:
        raise WireError("an advert has no port")
    fields = _read_txt_untrusted(txt)
    version = fields.get("v", "")
    if not _NUMBER.fullmatch(version):
        raise WireError(f"the version in an advert is not a number from 1 to {_VERSIONS}")
    mesh = fields.get("mesh")
    if mesh is not None and not _MESH.fullmatch(mesh):
        raise WireError("the mesh in an advert is not a mesh's id")
    name, mesh_name = fields.get("name", ""), fields.get("meshname", "") if mesh else ""
    if not valid_name(name) or not valid_name(mesh_name):
        raise WireError("a name in an advert is too long or cannot be printed")
    near = (address for text in islice(addresses, _ADDRESSES_READ) if (address := _near(text, port, interfaces)))
    return Advert(
        node,
        name or node.short,
        port,
        bytes.fromhex(mesh) if mesh else None,
        mesh_name,
        int(version),
        tuple(islice(dict.fromkeys(near), CONTACT_ADDRESSES)),
    )


def _read_txt_untrusted(txt: bytes) -> dict[str, str]:
    """Reads strings `key=value`, of equal keys the first (RFC 6763 section 6.4)."""
    if len(txt) > TXT_BYTES:
        raise WireError(f"the TXT records of an advert are longer than {TXT_BYTES} bytes")
    fields: dict[str, str] = {}
    place = 0
    while place < len(txt):
        end = place + 1 + txt[place]
        if end > len(txt):
            raise WireError("a TXT record of an advert is cut off")
        key, equals, value = txt[place + 1 : end].partition(b"=")
        place = end
        if equals:
            try:
                fields.setdefault(key.decode("ascii").lower(), value.decode())
            except UnicodeDecodeError as error:
                raise WireError("a TXT record of an advert is not UTF-8") from error
    return fields


def _near(text: str, port: int, interfaces: tuple[Interface, ...]) -> Address | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    scoped = ip.version == 6 and (ip.is_link_local or "%" in text)
    if scoped or ip.is_multicast or ip.is_unspecified:
        return None
    if not any(ip.version == interface.version and ip in interface.network for interface in interfaces):
        return None
    return Address(str(ip), port)
