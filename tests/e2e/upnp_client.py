"""Maps a port by UPnP, in the namespace in which it is started, until its input ends."""

from __future__ import annotations

import sys

import trio

from atmo.net.upnp import Upnp
from atmo.reach.port_mapping_config import PortMappingConfig


async def main(client: str, router: str) -> None:
    upnp = Upnp(PortMappingConfig(), client, router, 11_450, True)
    while upnp.mapped.external is None:  # the router may be starting
        await upnp.step()
    await upnp.step()  # renews
    assert upnp.mapped.tcp
    assert str(upnp.mapped.external) == "11.0.0.1:11450"
    await trio.to_thread.run_sync(sys.stdin.read)
    await upnp.forget()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
