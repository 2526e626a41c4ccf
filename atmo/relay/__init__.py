"""The relay of the mesh: a WebSocket server that passes datagrams on by node id, and what nodes reach it with.

`protocol` is what travels, without I/O; `server` the relay, with `session` for one client, `door` for who may come in,
`http` for what is not a WebSocket and `figures` for what it counts; `client` what a node holds, with `link` for one
connection. A relay knows no mesh: it needs keys and nothing else. May import from `peer` downward, never from `net`.
"""
