"""Who belongs to a mesh and what they may do: genesis, certificates, roles, join codes, revocation. No I/O.

May import from `wire`, `identity`, `errors` and `clock`.
"""
