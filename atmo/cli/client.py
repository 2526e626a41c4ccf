"""Where a command does its work: in the running node, or on the home of one that does not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from atmo.errors import UserError
from atmo.shell.progress import OnProgress

if TYPE_CHECKING:
    from atmo.node.offline import Services
    from atmo.shell.client import Change, Known

Result = TypeVar("Result")
Scope = Literal["local", "mesh", "available"]

_NOTHING: dict[str, Any] = {"text": "", "optional": None, "flag": False, "names": (), "trust": False}
"""What a field of a job is that was not given, by its kind."""


class Access(Protocol):
    """What commands can ask of a node, running or not."""

    @property
    def online(self) -> bool:
        """Whether a node runs on the home."""

    def status(self) -> dict[str, Any]: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def topology(self) -> dict[str, Any]: ...
    def doctor(self) -> dict[str, Any]: ...
    def create(self, name: str) -> dict[str, Any]: ...
    def invite(self, role: str, expires_s: float) -> dict[str, Any]: ...
    def join(self, code: str) -> dict[str, Any]: ...
    def revoke(self, node: str, *, force: bool = False) -> dict[str, Any]: ...
    def hand_over(self, node: str) -> dict[str, Any]: ...
    def models(self, scope: Scope) -> list[dict[str, Any]]: ...
    def info_of(self, name: str) -> dict[str, Any]: ...
    def preview(self, fields: Mapping[str, Any]) -> dict[str, Any]: ...
    def import_model(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]: ...
    def import_folder(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]: ...
    def job(self, name: str, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]: ...
    def known(self, what: Known) -> list[dict[str, Any]]: ...
    def pull_later(self, spec: str) -> dict[str, Any]: ...
    def remove(self, spec: str) -> list[dict[str, Any]]: ...
    def deployment(self, name: str | None) -> dict[str, Any]: ...
    def transfers(self, *, over: bool = False) -> list[dict[str, Any]]: ...
    def change_transfers(self, how: Change, which: str, *, keep: bool = False) -> list[dict[str, Any]]: ...
    def keys(self) -> list[dict[str, Any]]: ...
    def key_of(self, which: str) -> dict[str, Any]: ...
    def create_key(self, fields: Mapping[str, Any]) -> dict[str, Any]: ...
    def revoke_key(self, which: str) -> dict[str, Any]: ...


def live_node(home: Path) -> dict[str, Any] | None:
    """Returns `run/node.json` of the node that runs on `home`, None when none does."""
    from atmo.storage.home import Home

    return Home(home).node_info()


def start_command(home: Path) -> str:
    """Returns the command that starts a node on `home`, as a person would type it."""
    import shlex

    from atmo.config.settings import resolve_home

    return "atmo node" if home == resolve_home() else f"atmo node --home {shlex.quote(str(home))}"


@contextmanager
def open_access(home: Path) -> Iterator[Access]:
    """Gives access to the node of `home`, over its control API when it runs."""
    info = live_node(home)
    if info is None:
        yield Offline(home)
        return
    from atmo.shell.client import NodeClient

    with NodeClient(info) as client:
        yield client


class Offline:
    """Opens the home for each command; only pulling takes part in the mesh, joining dials the one inviter."""

    online = False

    def __init__(self, home: Path) -> None:
        self._home = home

    def status(self) -> dict[str, Any]:
        return self._call(lambda services: _later(services.status))

    def nodes(self) -> list[dict[str, Any]]:
        return self._call(lambda services: _later(services.mesh.nodes))

    def topology(self) -> dict[str, Any]:
        raise self._no_node()

    def doctor(self) -> dict[str, Any]:
        raise self._no_node("No node runs here, so there is nothing to check yet.")

    def _no_node(self, words: str = "No node runs here, so it is connected to nobody.") -> UserError:
        return UserError(words, f"Start it with `{start_command(self._home)}`.")

    def create(self, name: str) -> dict[str, Any]:
        return self._call(lambda services: services.mesh.create(name))

    def invite(self, role: str, expires_s: float) -> dict[str, Any]:
        return self._call(lambda services: services.mesh.invite(role, expires_s))

    def join(self, code: str) -> dict[str, Any]:
        return self._call(lambda services: services.mesh.join(code))

    def revoke(self, node: str, *, force: bool = False) -> dict[str, Any]:
        return self._call(lambda services: services.mesh.revoke(node, force=force))

    def hand_over(self, node: str) -> dict[str, Any]:
        return self._call(lambda services: services.mesh.hand_over(node))

    def models(self, scope: Scope) -> list[dict[str, Any]]:
        return self._call(lambda services: _later(lambda: [row.to_json() for row in services.models.rows(scope)]))

    def info_of(self, name: str) -> dict[str, Any]:
        return self._call(lambda services: _later(lambda: services.models.info(name)))

    def preview(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        async def work(services: Services) -> dict[str, Any]:
            said = {key: fields.get(key) for key in ("name", "version", "type", "capabilities", "description")}
            return (await services.models.preview(Path(fields["path"]), said)).to_json()

        return self._call(work)

    def import_model(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        async def work(services: Services) -> dict[str, Any]:
            row = await services.models.import_model(
                Path(fields["path"]),
                name=fields.get("name"),
                version=fields.get("version"),
                kind=fields.get("type"),
                capabilities=tuple(fields.get("capabilities") or ()),
                description=fields.get("description") or "",
                private=bool(fields.get("private")),
                progress=_reporter(on_progress),
            )
            return row.to_json()

        return self._call(work)

    def import_folder(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        from atmo.services.bulk_import import import_folder

        async def work(services: Services) -> dict[str, Any]:
            folder, report = Path(fields["path"]), _reporter(on_progress)
            return (await import_folder(services.models, folder, fields.get("type"), report)).to_json()

        return self._call(work)

    def job(self, name: str, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        from atmo.services.jobs import JOBS

        job = JOBS[name]
        given = {key: fields.get(key, _NOTHING[kind]) for key, kind in job.fields.items()}
        return self._call(lambda services: job.run(services, given, _reporter(on_progress)), network=job.network)

    def known(self, what: Known) -> list[dict[str, Any]]:
        def read(services: Services) -> list[dict[str, Any]]:
            if what == "publishers":
                return services.models.consent.rows()
            return services.publishing.deprecations() if what == "deprecations" else services.versions.rows()

        return self._call(lambda services: _later(lambda: read(services)))

    def pull_later(self, spec: str) -> dict[str, Any]:
        raise self._no_node("No node runs here that could do it in the background.")

    def remove(self, spec: str) -> list[dict[str, Any]]:
        async def work(services: Services) -> list[dict[str, Any]]:
            return [row.to_json() for row in await services.models.remove(spec)]

        return self._call(work)

    def deployment(self, name: str | None) -> dict[str, Any]:
        from atmo.services.deployment import deployment_status

        return self._call(lambda services: deployment_status(services.models, name))

    def transfers(self, *, over: bool = False) -> list[dict[str, Any]]:
        async def work(services: Services) -> list[dict[str, Any]]:
            return [row.to_json() for row in await services.models.transfers.rows(over=over)]

        return self._call(work)

    def change_transfers(self, how: Change, which: str, *, keep: bool = False) -> list[dict[str, Any]]:
        async def work(services: Services) -> list[dict[str, Any]]:
            transfers = services.models.transfers
            if how == "cancel":
                rows = await transfers.cancel(which, keep=keep)
            else:
                rows = await (transfers.pause(which) if how == "pause" else transfers.resume(which))
            return [row.to_json() for row in rows]

        return self._call(work)

    def keys(self) -> list[dict[str, Any]]:
        return self._call(lambda services: _later(services.keys.rows))

    def key_of(self, which: str) -> dict[str, Any]:
        return self._call(lambda services: _later(lambda: services.keys.row(which)))

    def create_key(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        models = tuple(fields.get("models") or ())
        more = {key: fields.get(key) for key in ("rate", "budget", "expires_s")}
        return self._call(lambda services: services.keys.create(fields["name"], models, **more))

    def revoke_key(self, which: str) -> dict[str, Any]:
        return self._call(lambda services: services.keys.revoke(which))

    def _call(self, work: Callable[[Services], Awaitable[Result]], *, network: bool = False) -> Result:
        import trio

        from atmo.node.offline import open_offline

        async def run() -> Result:
            async with open_offline(self._home, network=network) as services:
                return await work(services)

        return trio.run(run)


async def _later(read: Callable[[], Result]) -> Result:
    import trio

    await trio.lowlevel.checkpoint()
    return read()


def _reporter(on_progress: OnProgress) -> Callable[[Any], None]:
    return lambda progress: on_progress(progress.to_json())
