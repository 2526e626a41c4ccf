"""What keeps a pickle from doing harm in the child that reads it.

Reading a pickle runs what it names. Four fences, each with holes of its own: only what `pickle_names` lists may be
named; the process may not start others, open connections, or touch files but its own and the libraries' (audit hooks);
where the system allows it, the kernel refuses it all other files too (`landlock`), and it has no network at all. The
limits of `child_side` stand around them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atmo
from atmo.backends import landlock
from atmo.backends.child_side import Refusal
from atmo.backends.pickle_names import is_allowed

_BARRED_EVENTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.chdir",
    "os.truncate",
    "os.kill",
    "os.killpg",
    "os.getxattr",
    "os.listxattr",
    "os.setxattr",
    "ctypes.dlopen",
    "pty.spawn",
    "shutil.",
    "socket.",
    "sqlite3.",
    "urllib.",
    "ftplib.",
    "http.",
    "smtplib.",
    "webbrowser.",
    "signal.",
    "ensurepip.",
    "code.__new__",
)
_LISTING_EVENTS = ("os.listdir", "os.scandir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000

_SYSTEM_FOLDERS = ("/sys/fs/cgroup", "/sys/devices/system/cpu")
"""What libraries read to count the processors."""

_SYSTEM_FILES = ("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup")
_SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
"""Where the system's loader looks when a module of a library is imported late; only the kernel's fence needs them."""


class _Outside(Refusal, PermissionError):
    """A file that is refused; what only probes for it, as imports do, takes this as the system's own no."""


def leave_network() -> bool:
    """Moves this process, which must have one thread only, to a network of its own without interfaces.

    Returns:
        Whether the system allowed it.
    """
    if not sys.platform.startswith("linux"):
        return False
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    return any(unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def confine(folder: Path, model: Path) -> bool:
    """Has the kernel refuse this process, which must have one thread only, what `fence` refuses.

    Returns:
        Whether the system can do that.
    """
    readable = [*_library_folders(), *_SYSTEM_FOLDERS, *_SYSTEM_FILES, *_SHARED_LIBRARIES, str(model)]
    return landlock.confine(map(Path, readable), [folder, Path(os.devnull)])


def fence(folder: Path, model: Path) -> Callable[[], None]:
    """Puts up the audit hook for the rest of this process's life.

    Args:
        folder: May be read and written.
        model: The one other file, besides those of Python and its libraries, that may be read.

    Returns:
        A function that ends the list of allowed names, for when the file has been read; the rest stays.
    """
    reading = True
    check_open, check_list = _file_checks(folder, model)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            check_open(arguments[0], arguments[2])
        elif event in _LISTING_EVENTS:
            check_list(arguments[0])
        elif event == "pickle.find_class" and reading:
            _check_class(str(arguments[0]), str(arguments[1]))
        elif event.startswith(_BARRED_EVENTS):
            raise Refusal(f"The file tries to do something that a model has no need of ({event}), so it is refused.")

    def stop_reading() -> None:
        nonlocal reading
        reading = False

    sys.addaudithook(hook)
    return stop_reading


def _file_checks(folder: Path, model: Path) -> tuple[Callable[[object, object], None], Callable[[object], None]]:
    """Returns what checks an opening, by path and flags, and a listing, by path."""
    work = os.path.realpath(folder)
    folders = tuple(place + os.sep for place in (work, *_library_folders(), *_SYSTEM_FOLDERS))
    files = frozenset((os.path.realpath(model), *_SYSTEM_FILES))

    def check_open(path: object, flags: object) -> None:
        if isinstance(path, int):
            return
        text, place = _where(path)
        if isinstance(flags, int) and flags & _WRITING:
            if text != os.devnull and not place.startswith(work + os.sep):
                raise _Outside("The file tries to write to the disk, so it is refused.")
        elif text not in files and place not in files and not place.startswith(folders):
            raise _Outside("The file tries to read other files of this machine, so it is refused.")

    def check_list(path: object) -> None:
        if not (_where(path)[1] + os.sep).startswith(folders):
            raise _Outside("The file tries to look into folders of this machine, so it is refused.")

    return check_open, check_list


def _library_folders() -> tuple[str, ...]:
    """Returns the folders, with links followed, of Python, of what is installed for it, and of this package."""
    paths = sysconfig.get_paths()
    installed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")]
    found = [paths["stdlib"], paths["platstdlib"], *installed, str(Path(atmo.__file__).parent)]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in found))


def _where(path: object) -> tuple[str, str]:
    """Returns what was asked for and where that is with links followed; nowhere, where it cannot be told."""
    if path is None:
        path = "."
    if not isinstance(path, str | bytes | os.PathLike):
        return "", ""
    text = os.fsdecode(path)
    return text, os.path.realpath(text)


def _check_class(module: str, name: str) -> None:
    if is_allowed(module, name):
        return
    raise Refusal(
        f"The file needs {module[:80]}.{name[:80]}, which is no part of a scikit-learn estimator, so it is not loaded.",
        "Only plain scikit-learn estimators are converted: save the fitted one alone (of a search its"
        " best_estimator_), or export it to ONNX yourself.",
    )
