"""The HTTP client of one running node: the control API with its token, and the OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from atmo.errors import UserError
from atmo.shell.lines import events, json_lines

CONNECT_S = 5.0
ANSWER_S = 60.0
"""Joining a mesh dials other machines; a job's stream is never silent for longer (`atmo.api.control.ndjson`)."""

GENERATE_S = 600.0
"""Between two parts of an answer of a language model (guess: loading a large model takes minutes)."""

MAX_BODY_BYTES = 64 * 1024 * 1024

Change = Literal["pause", "resume", "cancel"]
Known = Literal["publishers", "deprecations", "updates"]
FindNode = Callable[[], Mapping[str, Any] | None]
OnProgress = Callable[[Mapping[str, Any]], None]


class NodeClient:
    """Talks to the node that `run/node.json` tells of.

    Args:
        info: The contents of `run/node.json`.
        transport: Another way to reach it than TCP.
    """

    online = True

    def __init__(self, info: Mapping[str, Any], transport: httpx.BaseTransport | None = None) -> None:
        self.info = info
        self.url = str(info["http"]).rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            transport=transport,
            trust_env=False,
        )
        self._token = {"authorization": f"Bearer {info['token']}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def status(self) -> dict[str, Any]:
        """Returns what the node tells of itself."""
        return self._control("GET", "/status")

    def config(self) -> list[dict[str, Any]]:
        """Returns the values that the node runs with, and where they come from."""
        return _list(self._control("GET", "/config"), "config")

    def nodes(self) -> list[dict[str, Any]]:
        """Returns the members of the mesh."""
        return _list(self._control("GET", "/mesh/nodes"), "nodes")

    def topology(self) -> dict[str, Any]:
        """Returns who is connected to whom."""
        return self._json("GET", "/v1/mesh/topology", self._token, None)

    def doctor(self) -> dict[str, Any]:
        """Returns what keeps the node from others."""
        return self._control("POST", "/mesh/doctor")

    def create(self, name: str) -> dict[str, Any]:
        """Creates a mesh."""
        return self._control("POST", "/mesh/create", {"name": name})

    def invite(self, role: str, expires_s: float) -> dict[str, Any]:
        """Makes a join code."""
        return self._control("POST", "/mesh/invite", {"role": role, "expires_s": expires_s})

    def join(self, code: str) -> dict[str, Any]:
        """Joins the mesh of a join code."""
        return self._control("POST", "/mesh/join", {"code": code})

    def revoke(self, node: str, *, force: bool = False) -> dict[str, Any]:
        """Takes a member's certificate away."""
        return self._control("POST", "/mesh/revoke", {"node": node, "force": force})

    def hand_over(self, node: str) -> dict[str, Any]:
        """Hands this founder's rights to another member."""
        return self._control("POST", "/mesh/hand-over", {"node": node})

    def models(self, scope: str) -> list[dict[str, Any]]:
        """Returns the models of `local`, `mesh` or `available`."""
        return _list(self._control("GET", f"/models?scope={quote(scope)}"), "models")

    def info_of(self, name: str) -> dict[str, Any]:
        """Returns manifest, versions and nodes of a model."""
        return self._control("GET", f"/models/{quote(name, safe='')}")

    def import_model(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """Imports a file of this machine; `fields` are those of the route, `path` absolute."""
        return self._job("/models/import", fields, on_progress)

    def preview(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a file would become; `fields` as for `import_model`."""
        return self._control("POST", "/models/preview", fields)

    def import_folder(self, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """Imports all models of a folder of this machine: `path` absolute, perhaps `type`."""
        return self._job("/models/import-folder", fields, on_progress)

    def job(self, name: str, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """Has a job of `atmo.services.jobs` done, such as a pull. Closing the connection, as an interrupt does, stops
        it."""
        return self._job(f"/models/{name}", fields, on_progress)

    def pull_later(self, spec: str) -> dict[str, Any]:
        """Leaves a pull to the node; returns the `transfer`, or the `model` that is here already."""
        return self._control("POST", "/models/pull-later", {"spec": spec})

    def remove(self, spec: str) -> list[dict[str, Any]]:
        """Removes local versions of a model."""
        return _list(self._control("POST", "/models/remove", {"spec": spec}), "removed")

    def deployment(self, name: str | None) -> dict[str, Any]:
        """Returns which models are where, of one name or of all, and how transfers went."""
        return self._control("GET", "/deployment" + (f"?name={quote(name, safe='')}" if name else ""))

    def known(self, what: Known) -> list[dict[str, Any]]:
        """Returns the publishers that were decided on, what is advised against, or what is kept up to date."""
        return _list(self._control("GET", f"/{what}"), what)

    def transfers(self, *, over: bool = False) -> list[dict[str, Any]]:
        """Returns the transfers that are not over, or all that the node remembers."""
        return _list(self._control("GET", f"/transfers?over={int(over)}"), "transfers")

    def change_transfers(self, how: Change, which: str, *, keep: bool = False) -> list[dict[str, Any]]:
        """Pauses, resumes or cancels transfers, and returns them."""
        more = {"keep": keep} if how == "cancel" else {}
        return _list(self._control("POST", f"/transfers/{how}", {"which": which, **more}), "transfers")

    def keys(self) -> list[dict[str, Any]]:
        """Returns what is known of the keys of clients."""
        return _list(self._control("GET", "/keys"), "keys")

    def key_of(self, which: str) -> dict[str, Any]:
        """Returns what is known of one key, by its name or id."""
        return self._control("GET", f"/keys/{quote(which, safe='')}")

    def create_key(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a key; `fields` are those of the route."""
        return self._control("POST", "/keys/create", fields)

    def revoke_key(self, which: str) -> dict[str, Any]:
        """Takes a key back, by its name or id."""
        return self._control("POST", "/keys/revoke", {"which": which})

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Posts to the OpenAI-compatible endpoint and returns its body."""
        return self._json("POST", path, self._token, body)

    @contextmanager
    def chat(self, body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, str], Iterator[dict[str, Any]]]]:
        """Streams an answer: the response's headers and the chunks as they arrive."""
        body = {**body, "stream": True}
        timeout = httpx.Timeout(GENERATE_S, connect=CONNECT_S)
        with self._stream("/v1/chat/completions", body, self._token, timeout) as response:
            yield response.headers, self._guarded(events(response.iter_bytes()))

    def _control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._json(method, f"/atmo/v1{path}", self._token, body)

    def _json(
        self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        with self._reaching(), self._http.stream(method, path, json=body, headers=dict(headers)) as response:
            content = _bounded_body(response)
        if response.is_error:
            raise _error(response.status_code, content)
        return _object(content)

    def _job(self, path: str, fields: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        with self._stream(f"/atmo/v1{path}", fields, self._token, timeout) as response:
            for line in self._guarded(json_lines(response.iter_bytes())):
                if "progress" in line:
                    on_progress(line["progress"])
                elif "done" in line:
                    return dict(line["done"])
                elif "error" in line:
                    raise _error_of(line["error"])
        raise UserError("The node ended before the work did.", "Its log says why; run the command again to go on.")

    @contextmanager
    def _stream(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: httpx.Timeout
    ) -> Iterator[httpx.Response]:
        with self._reaching():
            manager = self._http.stream("POST", path, json=body, headers=dict(headers), timeout=timeout)
            response = manager.__enter__()
        try:
            if response.is_error:
                with self._reaching():
                    content = _bounded_body(response)
                raise _error(response.status_code, content)
            yield response
        finally:
            manager.__exit__(None, None, None)

    def _guarded(self, items: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        with self._reaching():
            yield from items

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise UserError(f"The node at {self.url} does not answer.", "Start it with `atmo node`.") from error
        except httpx.TimeoutException as error:
            raise UserError(f"The node at {self.url} did not answer in time.", "Its log may say why.") from error
        except httpx.TransportError as error:
            raise UserError(
                f"The connection to the node at {self.url} broke: {str(error).rstrip('.')}.", "Is it still running?"
            ) from error


class Connector:
    """Keeps one client of the node that runs now: a node that was restarted has another token and another port.

    Args:
        find: Returns `run/node.json`, None when no node runs.
        start_command: How a person starts the node.
    """

    def __init__(self, find: FindNode, start_command: str) -> None:
        self._find = find
        self._start_command = start_command
        self._client: NodeClient | None = None

    def __call__(self) -> NodeClient:
        """Returns the client.

        Raises:
            UserError: No node runs.
        """
        info = self._find()
        if info is None:
            self.close()
            raise UserError("No node is running here.", f"Start it with `{self._start_command}`.")
        if self._client is None or self._client.info != info:
            self.close()
            self._client = NodeClient(info)
        return self._client

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _bounded_body(response: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise UserError(f"The node sent more than {MAX_BODY_BYTES} bytes.")
    return bytes(content)


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError("The node sent something that is not JSON.", "Are both of the same version?") from error
    if not isinstance(value, dict):
        raise UserError("The node sent something that is not a JSON object.", "Are both of the same version?")
    return value


def _list(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = body.get(key)
    if not isinstance(value, list):
        raise UserError(f"The node's answer has no {key}.", "Are both of the same version?")
    return value


def _error(status: int, content: bytes) -> UserError:
    try:
        return _error_of(json.loads(content)["error"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return UserError(f"The node answered with HTTP status {status}.", "Its log may say why.")


def _error_of(error: Any) -> UserError:
    fields = error if isinstance(error, dict) else {"message": error}
    message = fields.get("message") or "The node reported an error without a reason."
    told = UserError(str(message), str(fields.get("hint") or ""))
    told.code = str(fields.get("code") or "")
    told.about = about if isinstance(about := fields.get("about"), dict) else {}
    return told
