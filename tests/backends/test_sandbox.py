"""An audit hook stays for the life of a process, so the fence is tried in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ATTEMPTS = """
import json, os, pickle, socket, subprocess, sys, shutil
from pathlib import Path
from collections import OrderedDict
import numpy as np
import sklearn.linear_model
from atmo.backends.child_side import Refusal
from atmo.backends.sandbox import fence, leave_network

folder = Path(sys.argv[1])
class Names:
    def __init__(self, *names): self.names = names
    def __reduce__(self): return self.names[0], self.names[1:]
class Own: pass
pickles = {
    "estimator": pickle.dumps(sklearn.linear_model.LogisticRegression()),
    "array": pickle.dumps(np.arange(3)),
    "objects": pickle.dumps(np.array(["a", None], dtype=object)),
    "random state": pickle.dumps(np.random.RandomState(0)),
    "ufunc": pickle.dumps(np.log1p),
    "ordered": pickle.dumps(OrderedDict(a=1)),
    "getattr": pickle.dumps(Names(getattr, 1, "real")),
    "own class": pickle.dumps(Own()),
    "load": pickle.dumps(Names(np.load, "x")),
    "absent": b"csklearn.linear_model\\nNoSuchThing\\n.",
}
leave_network()
stop_reading = fence(folder)
outcome = {}
def attempt(name, work):
    try:
        work()
        outcome[name] = "done"
    except Refusal:
        outcome[name] = "refused"
    except Exception as error:
        outcome[name] = type(error).__name__
for name, data in pickles.items():
    attempt(name, lambda: pickle.loads(data))
attempt("shell", lambda: os.system("true"))
attempt("process", lambda: subprocess.run(["true"]))
attempt("fork", lambda: os.fork())
attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9), 1))
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("remove", lambda: os.remove("/tmp/nothing"))
attempt("tree", lambda: shutil.rmtree(folder / "x"))
attempt("write outside", lambda: open(folder.parent / "outside", "w"))
attempt("write up", lambda: open(folder / ".." / "outside", "a"))
attempt("write link", lambda: open(folder / "link", "w"))
attempt("open flags", lambda: os.open(folder.parent / "outside", os.O_CREAT | os.O_RDWR))
attempt("write inside", lambda: (folder / "inside").write_text("x"))
attempt("read", lambda: open("/etc/hostname").close())
stop_reading()
attempt("after", lambda: pickle.loads(pickles["own class"]))
attempt("shell after", lambda: os.system("true"))
print(json.dumps(outcome))
"""


def test_the_fence_holds(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    command = [sys.executable, "-c", ATTEMPTS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    passes = {name for name, how in outcome.items() if how == "done"}
    assert passes == {
        "estimator",
        "array",
        "objects",
        "random state",
        "ufunc",
        "ordered",
        "write inside",
        "read",
        "after",
    }
    assert outcome.pop("absent") == "AttributeError"
    assert {how for name, how in outcome.items() if name not in passes} == {"refused"}
    assert not (tmp_path / "outside").exists()
