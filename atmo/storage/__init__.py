"""What a node keeps on its disk: its home, one database, models as plain files, downloads under way.

May import from `peer` and everything below; never from `net`, its sibling. Everything here blocks: call it from worker
threads.
"""
