"""An audit hook stays for the life of a process, so the fence is tried in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ATTEMPTS = """
import ctypes, io, json, mmap, os, pickle, socket, subprocess, sys, shutil
from pathlib import Path
from collections import OrderedDict
import numpy as np
import sklearn.linear_model
from atmo.backends.child_side import Refusal
from atmo.backends.sandbox import confine, fence, leave_network

folder = Path(sys.argv[1])
secret = str(folder.parent / "secret")
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
    "memmap": pickle.dumps(Names(np.memmap, secret, "uint8", "r", 0, (9,))),
    "fromfile": pickle.dumps(Names(np.fromfile, secret, "uint8")),
    "ufunc by name": b"cnumpy._core\\n_ufunc_reconstruct\\n(S'os'\\nS'system'\\ntR.",
    "absent": b"csklearn.linear_model\\nNoSuchThing\\n.",
}
leave_network()
libc = ctypes.CDLL(None)
os.environ["CONFINED"] = str(confine(folder, folder.parent / "model"))
stop_reading = fence(folder, folder.parent / "model")
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
attempt("read the model", lambda: open(folder.parent / "model").read())
attempt("read inside", lambda: (folder / "inside").read_text())
attempt("list inside", lambda: os.listdir(folder))
attempt("list libraries", lambda: os.listdir(Path(np.__file__).parent))
attempt("late import", lambda: __import__("sklearn.manifold._isomap"))
attempt("random", lambda: open("/dev/urandom", "rb").close())
for name, work in {
    "read": lambda path: open(path),
    "read bytes": lambda path: open(os.fsencode(path), "rb"),
    "read flags": lambda path: os.open(path, os.O_RDONLY),
    "read path": lambda path: Path(path).read_bytes(),
    "read code": lambda path: io.open_code(path),
    "read memmap": lambda path: np.memmap(path, "uint8", "r"),
    "read array": lambda path: np.fromfile(path, "uint8"),
    "read npy": lambda path: np.load(path),
    "read up": lambda path: open(folder / ".." / "secret"),
    "read by proc": lambda path: open("/proc/self/root" + path),
    "read by link": lambda path: open(folder / "link to secret"),
    "read pipe": lambda path: open(folder.parent / "pipe"),
    "read environment": lambda path: open("/proc/self/environ"),
    "list": lambda path: os.listdir(folder.parent),
    "list here": lambda path: os.listdir("/"),
    "scan": lambda path: os.scandir(folder.parent),
    "list descriptor": lambda path: os.listdir(0),
    "change folder": lambda path: os.chdir(folder.parent),
    "load library": lambda path: ctypes.CDLL("libc.so.6"),
}.items():
    attempt(name, lambda: work(secret))
attempt("model goes on", lambda: (folder.parent / "model").read_bytes())
if os.environ["CONFINED"] == "True":
    outcome["libc reads"] = libc.open(os.fsencode(secret), os.O_RDONLY) >= 0
    outcome["libc reads the model"] = libc.open(os.fsencode(folder.parent / "model"), os.O_RDONLY) >= 0
    outcome["libc writes"] = libc.open(os.fsencode(folder.parent / "outside"), os.O_CREAT | os.O_RDWR, 0o600) >= 0
stop_reading()
attempt("after", lambda: pickle.loads(pickles["own class"]))
attempt("shell after", lambda: os.system("true"))
print(json.dumps(outcome))
"""


def test_the_fence_holds(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "link to secret").symlink_to(tmp_path / "secret")
    for name in ("secret", "model"):
        (tmp_path / name).write_text("something")
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", ATTEMPTS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome.pop("libc reads the model", True) is True
    assert (outcome.pop("libc reads", False), outcome.pop("libc writes", False)) == (False, False)
    passes = {name for name, how in outcome.items() if how == "done"}
    assert passes == {
        "estimator",
        "array",
        "objects",
        "random state",
        "ufunc",
        "ordered",
        "write inside",
        "read the model",
        "read inside",
        "list inside",
        "list libraries",
        "late import",
        "random",
        "model goes on",
        "after",
    }
    assert outcome.pop("absent") == "AttributeError"
    assert {how for name, how in outcome.items() if name not in passes} == {"refused"}
    assert not (tmp_path / "outside").exists()
