"""The packet world: real nodes, aioquic and SQLite included, over virtual UDP in virtual time.

Where the message world (`sim.world`) runs the engines, this one runs what a machine runs: `net`, `services` and `node`,
put together by the functions that put together a node. Datagrams meet the same rules of the network. One process holds
about fifty nodes.

Not bit for bit the same twice: trio shuffles the tasks that are ready, peers and TLS draw from the system's randomness.
So runs are judged by their outcomes.

May import everything below `sim`, and of `sim` the rules of the network.
"""
