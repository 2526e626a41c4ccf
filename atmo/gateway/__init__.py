"""Requests in, routed execution on this machine or another, parts of answers out.

May import from `backends`, `net.ports`, `router` and everything below. `gateway.gateway.Gateway` is the door.
"""
