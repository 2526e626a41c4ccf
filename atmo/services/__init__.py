"""What a person asks of a node: found, join and rule a mesh; import, pull and remove models.

May import from `storage`, `net` and everything below; never from `gateway`, its sibling.
"""
