"""The composition root: opens keys, sockets and stores, starts the nursery, and holds no policy.

`running.run_node` is what `atmo node` runs. `offline.open_offline` gives commands the same services on a home whose
node does not run; with `network` it takes part in the mesh for as long as the command takes. Nothing is imported here,
so that a command on a resting home does not load the HTTP face. May import from everything below.
"""
