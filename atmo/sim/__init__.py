"""Simulated meshes in virtual time: the same seed gives the same run, bit for bit, on every machine.

`scenario` is what a user's own scenario needs, `checks`, `churn`, `malice` and `spread` help it; `runner` plays one.
`world` feeds the very `Peer` of the product and performs its effects; `loop`, `network`, `links` and what they use make
its surroundings. `packets` is another world, of whole nodes.

May import from everything below. No wall clock but the runner's, no global randomness: each random stream is named
after the seed and the purpose, and the node where it is one's.
"""
