"""Who a node is: Ed25519 keys, node ids, signatures. No I/O; anyone may import from here.

`atmo.identity` exports `NodeId`, `Signer` and `verify`.
"""

from atmo.identity.keys import NodeId, Signer, verify

__all__ = ["NodeId", "Signer", "verify"]
