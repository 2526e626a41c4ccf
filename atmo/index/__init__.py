"""Who has what in a mesh too large for everyone to know it: Kademlia among its members. No I/O.

May import from `engine`, `trust`, `wire`, `identity`, `errors` and `clock`. May be imported: `Index`, its config, its
keys and what it tells; `MESSAGES` and `ITEMS` for the registry of messages; `open_provider_untrusted` for a simulator
that remembers its results.
"""

from atmo.index.config import IndexConfig, IndexStats
from atmo.index.engine import Index
from atmo.index.events import LookupDone, NodeFound, ProviderFound, Published
from atmo.index.keeping import Admit
from atmo.index.keys import capability_key, manifest_key, model_key, node_key
from atmo.index.messages import ITEMS, MESSAGES
from atmo.index.records import DOMAIN, Open, Provider, SealedProvider, open_provider_untrusted

__all__ = [
    "DOMAIN",
    "ITEMS",
    "MESSAGES",
    "Admit",
    "Index",
    "IndexConfig",
    "IndexStats",
    "LookupDone",
    "NodeFound",
    "Open",
    "Provider",
    "ProviderFound",
    "Published",
    "SealedProvider",
    "capability_key",
    "manifest_key",
    "model_key",
    "node_key",
    "open_provider_untrusted",
]
