"""What can run on this machine. One small interface (`backends.base`), one module for each kind of runner.

May import from `storage`, `net` and everything below the no-I/O line.
"""
