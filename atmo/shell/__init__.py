"""The interactive shell and the client it shares with the commands: both only ever talk HTTP to a running node.

May import from every room above the line save `cli` and `sim`; uses `errors` and `version` alone.
"""
