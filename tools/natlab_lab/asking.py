"""Scenarios of requests: two nodes behind symmetric NATs serve each other; an interface goes down and up."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import httpx

from atmo.shell.lines import events
from natlab_lab.machine import Machine
from natlab_lab.matrix import Conditions, Result, bring_up, figures, make_pair, open_world
from natlab_lab.net import Lab
from natlab_lab.shell import wait

KNOWN_S = 60.0
TIMEOUT_S = 30.0
"""Of whoever asks: a request that takes longer has timed out, and is not lost."""
ROUND = 4
"""Requests of each kind and direction in one try."""
EVERY_S = 0.25
DOWNS_S = (1.0, 3.0, 8.0)
"""For how long an interface is down, in turn."""
REST_S = 6.0


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a machine to a model of another one.

    Attributes:
        asks: Who asks.
        of: Whose model it is.
        kind: `chat`, `stream` or `embeddings`.
    """

    asks: Machine
    of: Machine
    kind: str

    def send(self) -> Result:
        """Sends it in a thread of whoever asks; returns what came of it."""
        future: Future[Result] = self.asks.inside.start(self._send)
        return future.result()

    def start(self) -> Future[Result]:
        """Starts it."""
        return self.asks.inside.start(self._send)

    def _send(self) -> Result:
        result: Result = {"from": self.asks.host.name, "kind": self.kind, "began": time.monotonic(), "good": False}
        try:
            self._ask(result)
        except httpx.TimeoutException:
            result["timed_out"] = True
        except (httpx.HTTPError, KeyError, ValueError, RuntimeError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
        result["seconds"] = round(time.monotonic() - result["began"], 3)
        return result

    def _ask(self, result: Result) -> None:
        name, url = self.of.host.name, self.asks.client.url
        text = f"what is asked at {result['began']}"
        deadline = time.monotonic() + TIMEOUT_S
        if self.kind == "embeddings":
            body: dict[str, Any] = {"model": f"embed-of-{name}", "input": text, "encoding_format": "float"}
            path = "/v1/embeddings"
        else:
            messages = [{"role": "user", "content": text}]
            body = {"model": f"chat-of-{name}", "messages": messages, "stream": self.kind == "stream"}
            path = "/v1/chat/completions"
        with httpx.stream("POST", url + path, json=body, timeout=TIMEOUT_S, trust_env=False) as answer:
            parts = []
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer as a whole takes too long")
        if answer.is_error:
            raise RuntimeError(f"{answer.status_code} {b''.join(parts)[:300]!r}")
        if answer.headers["x-atmosphere-node"] != name:
            raise RuntimeError(f"{answer.headers['x-atmosphere-node']} answered")
        result["path"] = answer.headers["x-atmosphere-path"]
        result["good"] = self._is_whole(parts, text)
        if not result["good"]:
            raise RuntimeError(f"not the whole answer: {b''.join(parts)[-300:]!r}")

    def _is_whole(self, parts: list[bytes], text: str) -> bool:
        if self.kind == "stream":
            chunks = list(events(iter(parts)))
            pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ())]
            return "".join(pieces).endswith(text)
        body = json.loads(b"".join(parts))
        if self.kind == "chat":
            return bool(body["choices"][0]["message"]["content"].endswith(text))
        return bool(body["data"][0]["embedding"])


def wait_for_models(pair: tuple[Machine, Machine]) -> None:
    """Returns when each machine knows the models of the other one.

    Raises:
        RuntimeError: It takes too long.
    """

    def knows(machine: Machine, name: str) -> bool:
        answer = machine.inside.call(httpx.get, f"{machine.client.url}/v1/models", trust_env=False)
        return f"chat-of-{name}" in {row["id"] for row in answer.json()["data"]}

    for one, two in (pair, pair[::-1]):
        wait(partial(knows, one, two.host.name), KNOWN_S, "the other's models")


# --- two symmetric NATs -----------------------------------------------------------------------------------------------


def requests(conditions: Conditions, out: TextIO) -> dict[str, Any]:
    """Two nodes behind symmetric NATs answer each other's chat and embedding requests, through the relay."""
    results: list[Result] = []
    with open_world(conditions) as (lab, public, folder):
        pair = make_pair(lab, public, folder, ("symmetric", "symmetric"), models=True)
        try:
            bring_up(public, pair, held=False)
            wait_for_models(pair)
            for _ in range(conditions.tries * ROUND):
                for asks, of in (pair, pair[::-1]):
                    for kind in ("chat", "stream", "embeddings"):
                        results.append(Question(asks, of, kind).send())
                        _tell_bad(results[-1], out)
        finally:
            for machine in pair:
                machine.close()
    return _told(results, "requests through NATs")


# --- interfaces go down and up ----------------------------------------------------------------------------------------


def wifi(conditions: Conditions, out: TextIO) -> dict[str, Any]:
    """Interfaces go down and up during a stream of requests."""
    results: list[Result] = []
    with open_world(conditions) as (lab, public, folder):
        pair = make_pair(lab, public, folder, ("port", "port"), models=True)
        try:
            bring_up(public, pair, held=False)
            wait_for_models(pair)
            for number in range(conditions.tries):
                for down_s in DOWNS_S:
                    results += _one_outage(lab, pair, pair[(number + 1) % 2], down_s, out)
        finally:
            for machine in pair:
                machine.close()
    return _told(results, "requests while interfaces went down and up")


def _one_outage(lab: Lab, pair: tuple[Machine, Machine], victim: Machine, down_s: float, out: TextIO) -> list[Result]:
    anna, bert = pair
    began = time.monotonic()
    pending: list[Future[Result]] = []
    up_at = began + 2.0 + down_s
    state = "up"
    while time.monotonic() < up_at + REST_S:
        now = time.monotonic()
        if state == "up" and now > began + 2.0:
            lab.down(victim.host)
            state = "down"
        elif state == "down" and now > up_at:
            lab.up(victim.host)
            state = "up again"
        if sum(not future.done() for future in pending) < 12:
            pending.append(Question(anna, bert, "stream" if len(pending) % 2 else "chat").start())
        time.sleep(EVERY_S)
    results = [future.result() for future in pending]
    slowest = max(result["seconds"] for result in results)
    lost = sum(_lost(result) for result in results)
    line = f"{victim.host.name} off for {down_s:.0f} s: {len(results)} requests, {lost} lost, slowest {slowest:.1f} s"
    print(line, file=out, flush=True)
    for result in results:
        result["at_s"] = round(result["began"] - began, 2)
        result["down_s"] = down_s
        _tell_bad(result, out)
    return results


def _lost(result: Result) -> bool:
    return not result["good"] and not result.get("timed_out")


def _tell_bad(result: Result, out: TextIO) -> None:
    if not result["good"]:
        why = result.get("error") or "timed out"
        when = f" at {result['at_s']:.1f} s" if "at_s" in result else ""
        print(
            f"  {result['from']} {result['kind']}{when}: after {result['seconds']:.1f} s: {why}", file=out, flush=True
        )


def _told(results: list[Result], what: str) -> dict[str, Any]:
    lost = sum(_lost(result) for result in results)
    late = sum(bool(result.get("timed_out")) for result in results)
    paths = sorted({result["path"] or "no path known yet" for result in results if "path" in result})
    spread = figures([result["seconds"] for result in results])
    text = f"{len(results)} {what}: {lost} lost, {late} timed out, by {', '.join(paths) or 'no path'}; "
    text += f"median {spread['median']} s, 95th percentile {spread['p95']} s"
    good = not lost and bool(results)
    return {"good": good, "told": text, "lost": lost, "timed_out": late, "paths": paths, "seconds": spread}
