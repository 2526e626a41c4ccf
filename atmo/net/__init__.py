"""What touches the network: QUIC on one UDP socket, requests on its streams, and the driver of the peer engine.

`atmo.net.quic` opens an endpoint whose connections are authenticated by node id at both ends; `atmo.net.requests` puts
one request on each stream. `quic_core` is the only module that touches aioquic's private members. May import from
`peer` downward, never from `storage`.
"""
