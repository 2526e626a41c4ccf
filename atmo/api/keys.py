"""Who is let in: by key, by how often they ask, and by how much runs already. Nothing here waits.

A key is needed wherever other machines can reach the endpoint, and on loopback where it is set so. A key of ours that
is shown is checked in any case. Others are not looked at where none is needed, as OpenAI's clients send some text
always. The token of `run/node.json`, which the owner of the home can read, opens everything.
"""

from __future__ import annotations

import hmac
from collections import Counter
from dataclasses import dataclass

import trio
from starlette.types import Scope

from atmo.api.account import Account
from atmo.api.http.limits import HttpLimits, group_of
from atmo.errors import RequestError, WireError
from atmo.gateway.rates import Rate, Rates
from atmo.services.keys import KeyService
from atmo.storage.keys import MOST_KEYS, StoredKey
from atmo.trust.apikey import key_id, looks_like_key, read_key_untrusted

OPEN_PATHS = frozenset({"/health"})
"""Needs no key, as a load balancer asks; who shows none learns nothing but that the node answers."""

CONTROL = "/atmo/v1/"
"""The control API: its routes want the node's own token and check it themselves."""

QUOTA = "insufficient_quota"


@dataclass(slots=True)
class AdmissionStats:
    """Counters of requests that were not let in."""

    without_key: int = 0
    wrong_key: int = 0
    rate_limited: int = 0
    over_budget: int = 0
    overloaded: int = 0


class Admission:
    """Lets requests in, and counts what is done with keys.

    Args:
        keys: Of clients; None where there are none.
        required: A key is needed.
        token: Opens everything; empty for none.
        limits: Of the HTTP face.
        limit_own: Whether the rate of an address counts for this machine's own, too.
    """

    def __init__(
        self,
        keys: KeyService | None = None,
        *,
        required: bool = False,
        token: str = "",
        limits: HttpLimits | None = None,
        limit_own: bool = False,
    ) -> None:
        self.stats = AdmissionStats()
        self._required = required
        self._keys = keys
        self._token = token.encode()
        self._limits = limits or HttpLimits()
        self._limit_own = limit_own
        self._inside: Counter[str] = Counter()
        self._count = 0
        self._by_address: Rates[str] = Rates(self._limits.addresses)
        self._by_key: Rates[bytes] = Rates(MOST_KEYS)

    def enter(self, scope: Scope, account: Account) -> RequestError | None:
        """Lets a request in, or returns why not. One that was let in has to `leave`.

        Args:
            scope: Of ASGI.
            account: Gets the key's name, id and patterns.
        """
        group = group_of(account.address)
        refusal = self._crowded(group) or self._too_often(group) or self._without_leave(scope, account)
        if refusal is None:
            self._inside[group] += 1
            self._count += 1
        return refusal

    def leave(self, account: Account) -> None:
        """A request that was let in has ended."""
        group = group_of(account.address)
        self._count -= 1
        self._inside[group] -= 1
        if not self._inside[group]:
            del self._inside[group]

    def again(self, account: Account) -> RequestError | None:
        """Lets one more request in that came over a WebSocket which was let in, or returns why not."""
        key = self._keys.find_id(account.key_id) if self._keys is not None and account.key_id else None
        if account.key_id and key is None:
            return _unauthorised("This key was revoked.")
        return self._too_often(group_of(account.address)) or (self._refused(key) if key is not None else None)

    def holds(self, account: Account) -> bool:
        """Says whether the key that let a WebSocket in still counts."""
        if not account.key_id or self._keys is None:
            return True
        key = self._keys.find_id(account.key_id)
        return key is not None and self._keys.state(key) in ("active", "used up")

    def observe(self, account: Account) -> None:
        """Counts what was done with a key."""
        key = self._keys.find_id(account.key_id) if self._keys is not None and account.key_id else None
        if self._keys is not None and key is not None:
            self._keys.note(key, account.prompt_tokens, account.completion_tokens, account.cost)

    def _crowded(self, group: str) -> RequestError | None:
        limits = self._limits
        full = self._count >= limits.requests
        if group:
            full = full or self._count - self._inside[""] >= limits.requests - limits.own_requests
            full = full or self._inside[group] >= limits.requests_per_address
        if not full:
            return None
        self.stats.overloaded += 1
        message = "This node answers as many requests as it can: try again shortly."
        return RequestError(429, message, kind="rate_limit_error", code="overloaded", retry_s=1.0)

    def _too_often(self, group: str) -> RequestError | None:
        if not group and not self._limit_own:
            return None
        limits = self._limits
        rate = Rate(limits.address_rate, limits.address_rate * limits.address_burst_s)
        wait_s = self._by_address.wait_s(trio.current_time(), group, rate)
        if not wait_s:
            return None
        self.stats.rate_limited += 1
        message = f"Your address sends more than {limits.address_rate:g} requests a second."
        return _rate_limited(message, wait_s)

    def _without_leave(self, scope: Scope, account: Account) -> RequestError | None:
        path = scope["path"]
        if path.startswith(CONTROL):
            return None
        if path in OPEN_PATHS and self._required and not _shown(scope):
            account.stranger = True
            return None
        shown = _shown(scope)
        if shown and self._token and hmac.compare_digest(shown, self._token):
            return None
        text = shown.decode("latin-1")
        if self._keys is None or not looks_like_key(text):
            if not self._required:
                return None
            self.stats.without_key += 1
            return _unauthorised(_WRONG_KIND if text else _NO_KEY)
        try:
            key = self._keys.find(read_key_untrusted(text))
        except WireError as error:
            self.stats.wrong_key += 1
            return _unauthorised(f"This is not a key as it was made: {error}. Copy it again, whole.")
        if key is None:
            self.stats.wrong_key += 1
            return _unauthorised("This node does not know that key: `atmo key list` shows those that it knows.")
        account.key = key.terms.name
        refusal = self._refused(key)
        if refusal is None:
            account.key_id, account.models = key_id(key.hash), key.terms.models
        return refusal

    def _refused(self, key: StoredKey) -> RequestError | None:
        """Returns why a key does not let a request in now."""
        assert self._keys is not None
        state, terms = self._keys.state(key), key.terms
        if state in ("revoked", "expired"):
            self.stats.wrong_key += 1
            return _unauthorised(f"The key {terms.name} {'has expired' if state == 'expired' else 'was revoked'}.")
        if state == "used up":
            self.stats.over_budget += 1
            assert terms.budget is not None
            period = f" for this {terms.budget_period}" if terms.budget_period else ""
            message = f"The budget of ${terms.budget:.2f}{period} of the key {terms.name} is spent."
            wait_s = self._keys.renewed_in_s(key) or 0.0
            return RequestError(429, message, kind=QUOTA, code=QUOTA, retry_s=wait_s)
        rate = Rate(terms.rate_count / terms.rate_s, terms.rate_count)
        wait_s = self._by_key.wait_s(trio.current_time(), key.hash, rate)
        if not wait_s:
            return None
        self.stats.rate_limited += 1
        return _rate_limited(
            f"The key {terms.name} may send {terms.rate_count} requests in {terms.rate_s:g} s.", wait_s
        )


_NO_KEY = (
    "This endpoint wants a key: send it as `Authorization: Bearer sk-atmo-...`."
    " `atmo key create --name NAME` on its machine makes one."
)
_WRONG_KIND = f"{_NO_KEY} What was sent is no key of this node."


def _shown(scope: Scope) -> bytes:
    """Returns the key that a request shows, empty for none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            return given.strip() if scheme.lower() == b"bearer" else b""
    return next((value.strip() for name, value in scope["headers"] if name in (b"api-key", b"x-api-key")), b"")


def _unauthorised(message: str) -> RequestError:
    return RequestError(401, message, code="invalid_api_key")


def _rate_limited(what: str, wait_s: float) -> RequestError:
    message = f"{what} Try again in {wait_s:.1f} s."
    return RequestError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_s=wait_s)
