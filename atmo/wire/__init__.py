"""Bytes: deterministic CBOR, signed envelopes, frames, and the limits of everything. No I/O.

May import from `identity`, `errors` and `clock`. Functions that take bytes from outside end in `_untrusted` and raise
only `WireError`.
"""
