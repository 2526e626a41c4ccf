"""The commands: one module a noun. They ask the running node over its control API, or do it on its home themselves.

May import from every room; nothing imports from here. Modules import what is heavy inside their functions, so that
`atmo --help` is there at once.
"""
