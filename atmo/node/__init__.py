"""The composition root: opens keys, sockets and stores, starts the nursery, and holds no policy.

`run_node` is what `atmo node` runs. `open_offline` gives commands the same services on a home whose node does not run;
with `network` it takes part in the mesh for as long as the command takes. May import from everything below.
"""

from atmo.node.offline import Services, open_offline
from atmo.node.running import NodeInfo, run_node

__all__ = ["NodeInfo", "Services", "open_offline", "run_node"]
