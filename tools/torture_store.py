"""What the store is put through: each action that can be killed, and what must hold afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.storage import importing
from atmo.storage.audit import read, verify_chain
from atmo.storage.chunks import ModelStorage
from atmo.storage.database import Database
from atmo.storage.eviction import Limits
from atmo.transfer.manifest import seal_manifest

ACTIONS = ("import", "pull", "gc", "verify", "remove", "evict")
SIGNER = Signer(b"torture".ljust(32, b"."))
HELD_MOST = 6
"""Models in the store at most, so that a long run needs no more room than a short one."""

LEAST_BYTES, MOST_BYTES = 200_000, 8_000_000
PULLERS = 3
MONTH_S = 31 * 86_400.0


class Broken(Exception):
    """The store did not keep what it promises."""


@contextmanager
def opened(home: Path) -> Iterator[ModelStorage]:
    """Opens a store; nothing of it is left open afterwards, so that a process may fork."""
    database = Database(home / "atmosphere.db")
    try:
        yield ModelStorage(home, database)
    finally:
        database.close()


def model_bytes(random: Random) -> bytes:
    """Makes a safetensors file of one tensor."""
    size = random.randrange(LEAST_BYTES, MOST_BYTES)
    header = f'{{"w":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + random.randbytes(size)


@dataclass(frozen=True)
class Trial:
    """One action that may be killed.

    Attributes:
        kind: Of `ACTIONS`.
        run: What the child does.
        uncertain: Models that may or may not be here afterwards.
        damaged: Models whose damage may or may not be repaired afterwards.
    """

    kind: str
    run: Callable[[], object]
    uncertain: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()


class Torture:
    """A store under test, another that has everything, and what must be there.

    Args:
        folder: Empty; both stores go there.
        random: Chooses everything but the moments of the kills.
    """

    def __init__(self, folder: Path, random: Random) -> None:
        self.home = folder / "home"
        self.holder = folder / "holder"
        self._inbox = folder / "inbox"
        self._random = random
        self._number = 0
        self._resumable = ""
        self.held: dict[str, bytes] = {}
        self._inbox.mkdir(parents=True)
        with opened(self.home), opened(self.holder):
            pass

    def prepare(self, kind: str) -> Trial:
        """Sets the scene for an action."""
        if kind in ("verify", "remove", "evict") and not self.held:
            kind = "pull"
        return {
            "import": self._import,
            "pull": self._pull,
            "gc": self._collect,
            "verify": self._verify,
            "remove": self._remove,
            "evict": self._evict,
        }[kind]()

    def _new(self) -> tuple[str, Path]:
        """Makes a model that the holder has, too, so that it can be pulled and repaired."""
        self._number += 1
        name = f"model-{self._number}"
        path = self._inbox / f"{name}.safetensors"
        path.write_bytes(model_bytes(self._random))
        with opened(self.holder) as holder:
            importing.store(holder, SIGNER, "holder", importing.look_at(path, {}))
        return name, path

    def _import(self) -> Trial:
        name, path = self._new()

        def run() -> None:
            with opened(self.home) as store:
                importing.store(store, SIGNER, "me", importing.look_at(path, {}))

        return Trial("import", run, frozenset({name}))

    def _pull(self) -> Trial:
        name = self._resumable or self._new()[0]  # every second one goes on where it was killed
        self._resumable = name
        return Trial("pull", lambda: self._pull_now(name), frozenset({name}))

    def _pull_now(self, name: str) -> None:
        """Pulls from the holder with several threads, as a node does."""
        with opened(self.home) as store, opened(self.holder) as holder:
            model = next(model for model in holder.models() if model.name == name)
            partial = store.open_partial(seal_manifest(SIGNER, model.manifest))
            wanted = [index for index in range(len(partial.places)) if index not in partial.have]
            Random(name).shuffle(wanted)

            def fetch(index: int) -> bool:
                return partial.write(index, holder.read_chunk(partial.places[index].hash))

            with ThreadPoolExecutor(PULLERS) as pool:
                if not all(pool.map(fetch, wanted)):
                    raise Broken(f"a chunk of {name} was refused")
            store.finish(partial, "holder")

    def _collect(self) -> Trial:
        """Leaves garbage about: a download that was stopped, and files that arrived only in part."""
        name, _ = self._new()
        with opened(self.home) as store, opened(self.holder) as holder:
            model = next(model for model in holder.models() if model.name == name)
            partial = store.open_partial(seal_manifest(SIGNER, model.manifest))
            partial.write(0, holder.read_chunk(partial.places[0].hash))
            store.close_partial(partial)
            for number in range(self._random.randrange(1, 40)):
                (store.root / "incoming" / f"left-{number}").write_bytes(bytes(10_000))

        def run() -> None:
            with opened(self.home) as store:
                for number in range(20):  # as if a node had left them while it ran
                    (store.root / "incoming" / f"more-{number}").write_bytes(bytes(10_000))
                store.collect_garbage(time.time() + MONTH_S)

        return Trial("gc", run)

    def _verify(self) -> Trial:
        doomed = self._random.sample(sorted(self.held), min(2, len(self.held)))
        with opened(self.home) as store:
            paths = {model.name: model.path for model in store.models()}
        for name in doomed:
            with paths[name].open("r+b") as file:
                for _ in range(self._random.randrange(1, 4)):
                    file.seek(self._random.randrange(paths[name].stat().st_size - 64))
                    file.write(self._random.randbytes(64))
        return Trial("verify", self._repair, damaged=frozenset(doomed))

    def _repair(self) -> None:
        with opened(self.home) as store, opened(self.holder) as holder:
            store.verify(repair=lambda name, size: holder.read_chunk(name))

    def _remove(self) -> Trial:
        name = self._random.choice(sorted(self.held))

        def run() -> None:
            with opened(self.home) as store:
                store.remove(name, "1.0.0")

        return Trial("remove", run, frozenset({name}))

    def _evict(self) -> Trial:
        def run() -> None:
            with opened(self.home) as store:
                store.limits = Limits(max_models=len(self.held) // 2)
                store.is_replaceable = lambda model: True
                store.make_room(0)

        return Trial("evict", run, frozenset(self.held))

    def check(self, trial: Trial) -> bool:
        """Looks what is left; says whether the action had been done.

        Raises:
            Broken: Something whole was lost, or something half is taken for whole.
        """
        try:
            with opened(self.home) as store:
                changed = self._compare(store, trial)
        except UserError as error:
            raise Broken(f"the store does not open: {error}") from error
        if trial.kind == "pull" and changed:
            self._resumable = ""
        self._forget()
        return changed

    def _compare(self, store: ModelStorage, trial: Trial) -> bool:
        here = {model.name: model.manifest.checksum_sha256 for model in store.models()}
        for name, checksum in self.held.items():
            if name not in trial.uncertain and here.get(name) != checksum:
                raise Broken(f"{name} was whole before and is lost")
        if strange := here.keys() - self.held.keys() - trial.uncertain:
            raise Broken(f"{', '.join(sorted(strange))}: nobody has put that there")
        report = store.verify()
        hurt = {damage.name for damage in report.damages}
        if wrong := hurt - trial.damaged:
            raise Broken(f"{', '.join(sorted(wrong))} is damaged: {report.damages[0]}")
        if hurt:
            with opened(self.holder) as holder:
                again = store.verify(repair=lambda name, size: holder.read_chunk(name))
            if not again.clean or store.verify().damages:
                raise Broken(f"{', '.join(sorted(hurt))} cannot be repaired after a kill")
        self._tidy(store)
        changed = here != self.held or (bool(trial.damaged) and not hurt)
        if trial.kind == "gc":
            changed = not store.partials()
        self.held = here
        return changed

    def _tidy(self, store: ModelStorage) -> None:
        left = [path.name for path in (store.root / "incoming").iterdir()]
        owned = {model.path.name for model in store.models()} | {"registry.yaml"}
        strangers = [path.name for path in store.models_folder.iterdir() if path.name not in owned]
        if left or strangers:
            raise Broken(f"lying about: {', '.join(left + strangers)}")
        state = verify_chain(store.root)
        if state.problems:
            raise Broken(f"the audit log: {state.problems[0]}")
        noted: set[str] = set()
        for entry in read(store.root):
            event = entry.event
            if event.what in ("import", "download"):
                noted.add(event.name)
            elif event.what in ("removal", "eviction"):
                noted.remove(event.name)
        if noted != {model.name for model in store.models()}:
            raise Broken(f"the audit log tells of {sorted(noted)}, which is not what is here")

    def _forget(self) -> None:
        """Takes out what is more than is needed, here and at the holder."""
        extra = sorted(self.held, key=lambda name: int(name.split("-")[1]))[:-HELD_MOST]
        with opened(self.home) as store:
            for name in extra:
                store.remove(name, "1.0.0")
                del self.held[name]
        kept = {*self.held, self._resumable}
        with opened(self.holder) as holder:
            for model in holder.models():
                if model.name not in kept:
                    holder.remove(model.name, model.version)
        for path in self._inbox.iterdir():
            if path.stem not in kept:
                path.unlink()
