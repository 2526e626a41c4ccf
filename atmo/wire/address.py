"""Network addresses as they travel in records, join codes and effects."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from atmo.errors import WireError
from atmo.wire.schema import Most


@dataclass(frozen=True, slots=True)
class Address:
    """A UDP (and TCP) endpoint: a literal IP address and a port.

    Raises:
        ValueError: The host is no IP address or the port is not within 1 to 65535.
    """

    host: Annotated[str, Most(45)]
    port: Annotated[int, Most(65_535)]

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.host)
        if not 0 < self.port < 65_536:
            raise ValueError(f"port {self.port} is not within 1 to 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `1.2.3.4:5` or `[::1]:5`.

        Raises:
            WireError: It is not such an address.
        """
        host, _, port = text.rpartition(":")
        try:
            return cls(host.strip("[]"), int(port))
        except ValueError as error:
            raise WireError(f"{text!r} is not an address such as 192.168.1.10:11450") from error
