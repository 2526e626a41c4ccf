"""What can run on this machine. One small interface (`backends.base`), one module for each kind of runner.

May import from `storage`, `net` and everything below the no-I/O line.

Importing this room keeps onnxruntime from telling its makers what it runs: from 1.29 on its packages for Linux, macOS
and Windows do that unless this variable is set before the library is loaded. Source: `Privacy.md` of its packages.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
