"""Membership, broadcast and state sync: how a mesh knows itself. Engines without I/O.

May import from `engine`, `trust`, `wire`, `identity`, `errors` and `clock`.
"""
