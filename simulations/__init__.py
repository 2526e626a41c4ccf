"""Scenarios of this repository beside those that come with the program (`atmo/sim/scenarios`, `atmo sim list`).

The scenarios of every release are part of the installed package, so that `atmo sim run broadcast` works wherever
`atmo` does. A file here is what a user's own scenario looks like: `atmo sim run simulations/mesh.py`.
"""
