"""The message world: peers over virtual links in virtual time, bit for bit the same for the same seed.

May import from everything below. No wall clock, no global randomness: each random stream is named after the seed, the
node and the purpose.
"""
