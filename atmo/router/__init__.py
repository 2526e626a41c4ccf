"""Which capability of which node answers a request: pure decisions over adverts, with their reasons. No I/O.

May import from `engine`, `wire`, `identity`, `errors` and `clock`.
"""
