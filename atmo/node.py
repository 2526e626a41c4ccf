"""The composition root: opens keys, sockets and stores, starts the nursery, and holds no policy."""
