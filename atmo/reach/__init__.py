"""Reachability engines: the paths under one connection, and the probes that prove them."""
