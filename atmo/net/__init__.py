"""What touches the network: QUIC on one UDP socket, requests on its streams, and the driver of the peer engine.

`atmo.net.quic` opens an endpoint whose connections are authenticated by node id at both ends; `atmo.net.requests` puts
one request on each stream; `atmo.net.driver` runs the peer, with `links` for its connections, `reaching` for members
without one, and `forwarding` for ways through others. `quic_core` is, with `patched_connection`, the only module that
touches aioquic's private members. May import from `peer` downward, never from `storage`.
"""
