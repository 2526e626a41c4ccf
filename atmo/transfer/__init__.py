"""Which chunk of a model is asked of whom: manifests, the picker and the transfer engine. No I/O.

May import from `engine`, `trust`, `wire`, `identity`, `errors` and `clock`. Bytes of models never come here; an engine
is told that a chunk arrived whole, failed, or was wrong.
"""
