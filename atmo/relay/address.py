"""Where a relay is: its URL, and who it has to be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from atmo.errors import WireError
from atmo.identity import NodeId

URL_CHARS = 512
RELAYS_MOST = 16
"""Of one node."""

_PLAIN = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """One relay. Two are the same where their URLs are.

    Attributes:
        url: `ws://host:port/path` or `wss://...`, without the pinned id.
        host: To connect to, and for `wss` the name in the certificate.
        port: TCP port.
        path: Of the request.
        secure: With TLS.
        pinned: Who the relay has to be; None for anyone who answers there.
    """

    url: str
    host: str = field(compare=False)
    port: int = field(compare=False)
    path: str = field(compare=False)
    secure: bool = field(compare=False)
    pinned: NodeId | None = field(compare=False, default=None)

    @classmethod
    def parse_untrusted(cls, text: str) -> RelayAddress:
        """Reads `wss://relay.example.org/` with, after a `#`, the relay's id where it is to be pinned.

        Raises:
            WireError: It has another form.
        """
        shown = repr(text[:64])
        if len(text) > URL_CHARS or not _PLAIN.fullmatch(text):
            raise WireError(f"{shown} is no URL of a relay")
        bare, _, pinned = text.partition("#")
        try:
            parts = urlsplit(bare)
            port = parts.port
        except ValueError as error:
            raise WireError(f"{shown} is no URL of a relay: {error}") from error
        host = parts.hostname or ""
        if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or "@" in parts.netloc or parts.query or port == 0:
            raise WireError(f"{shown} is not a URL such as wss://relay.example.org/ or ws://192.168.1.10:11452/")
        port = port or _PORTS[parts.scheme]
        literal = f"[{host}]" if ":" in host else host
        where = literal if port == _PORTS[parts.scheme] else f"{literal}:{port}"
        path = parts.path or "/"
        node = NodeId.parse(pinned) if pinned else None
        return cls(f"{parts.scheme}://{where}{path}", host, port, path, parts.scheme == "wss", node)

    def __str__(self) -> str:
        return self.url if self.pinned is None else f"{self.url}#{self.pinned}"
