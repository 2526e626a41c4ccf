"""Which model answers: by its name, by what the request means, or because no other does the operation."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atmo.router import decision as rules
from atmo.router.capability import (
    ANOMALY,
    AUDIO,
    CHAT,
    CLASSIFY,
    CLUSTER,
    COMPLETIONS,
    EMBEDDINGS,
    FORECAST,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
    CapabilityKey,
    key_of,
)
from atmo.router.decision import Constraints, Failure, RouteRequest
from atmo.router.names import offers_named
from atmo.router.offer import Offer
from atmo.router.offers import Able, Offers, Tier, preference

THRESHOLD = 0.47
"""Cosine from which a specialist is near enough, against the nearest of its texts.

Source: calibrated on CLINC150 with all-MiniLM-L6-v2: 83.6 % of right answers accepted, 85 % of out-of-scope rejected.
"""

ENDPOINTS = {
    CHAT: "/v1/chat/completions",
    COMPLETIONS: "/v1/completions",
    EMBEDDINGS: "/v1/embeddings",
    IMAGES: "/v1/images/generations",
    TRANSCRIPTION: "/v1/audio/transcriptions",
    SPEECH: "/v1/audio/speech",
    CLASSIFY: "/v1/ml/classify",
    ANOMALY: "/v1/ml/anomaly",
    CLUSTER: "/v1/ml/cluster",
    FORECAST: "/v1/ml/forecast",
}

_LANGUAGE = (
    "start Ollama with a model (ollama pull llama3.2), import a GGUF file (atmo model import PATH),"
    " add an OpenAI-compatible server to the configuration,"
)
_SERVER = "add an OpenAI-compatible server that does it to the configuration,"
_FITTED = 'train one (POST {} with "action": "fit"), import one (atmo model import PATH),'
_MISSING = {
    CHAT: _LANGUAGE,
    COMPLETIONS: _LANGUAGE,
    EMBEDDINGS: "start a node with the built-in embedder,",
    IMAGES: _SERVER,
    TRANSCRIPTION: _SERVER,
    SPEECH: _SERVER,
} | {operation: _FITTED.format(ENDPOINTS[operation]) for operation in (CLASSIFY, ANOMALY, CLUSTER, FORECAST)}

NEEDS = {
    VISION: "look at images",
    AUDIO: "listen to sound",
    TOOLS: "call tools",
    JSON_SCHEMA: "answer by a JSON schema",
}
"""What a model that lacks a feature cannot do."""

_FIELDS = {VISION: "messages", AUDIO: "messages", TOOLS: "tools", JSON_SCHEMA: "response_format"}

BY_MEANING = frozenset({CHAT, COMPLETIONS, CLASSIFY, ANOMALY, CLUSTER, FORECAST})
"""Operations whose model is chosen by what a request says where it names none."""

_NAMES_SHOWN = 8

_ANY = Constraints()


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, or several that are as good.

    Attributes:
        rule: One of the `RULE_` constants.
        reason: Why, the first half of the decision's sentence.
        tiers: Offers to choose among; a later tier stands in when the ones before cannot.
        why_not: Says in one sentence why an offer outside the tiers was ruled out.
    """

    rule: str
    reason: str
    tiers: tuple[Tier, ...]
    why_not: Callable[[Offer], str]


Scores = Mapping[CapabilityKey, float]

Known = Mapping[str, str]
"""Models that exist though nobody offers them; with the kind of those that no node of this version can run, else ""."""


def choose_model(
    request: RouteRequest, offers: Offers, scores: Scores | None, known: Known, threshold: float
) -> Choice | Failure:
    """Returns the model that answers `request`, or why there is none."""
    able = offers.doing(request.operation)
    free = request.constraints == _ANY and not request.needs
    allowed = able if free else Able(_meeting(request, offers, able))
    if not request.auto:
        return _by_name(request, offers, able, allowed, known)
    if not able:
        hint = _MISSING.get(request.operation, "start a node that can,")
        return Failure(
            503,
            f"Nothing in this mesh can do {request.operation}: {hint} "
            "or join a mesh that has one (atmo mesh join CODE).",
            "no_capability",
            kind="api_error",
        )
    if not allowed:
        return _constrained(request, able, offers.fresh)
    if len(allowed.models) == 1:
        (model,) = allowed.models
        only = f"{model} is the only model that does {request.operation}"
        return Choice(rules.RULE_ONLY, only, (offers_named(model, allowed),), lambda _: "an older version")
    if request.operation not in BY_MEANING:
        return _by_default(request.operation, allowed)
    return _by_meaning(request, allowed, scores, threshold)


def _meeting(request: RouteRequest, offers: Offers, able: Able) -> list[Offer]:
    return [offer for offer in map(offers.fresh, able.offers) if not ruled_out(offer, request)]


def ruled_out(offer: Offer, request: RouteRequest) -> str:
    """Returns which of the request's needs and constraints `offer` breaks, in one sentence; empty where none."""
    lacking = offer.capability.lacks(request.needs)
    if lacking:
        return f"cannot {NEEDS.get(lacking[0], lacking[0])}"
    constraints = request.constraints
    return "" if constraints == _ANY else _against(constraints, offer) or _too_far(constraints, offer)


def _against(constraints: Constraints, offer: Offer) -> str:
    cost, capability = constraints.max_cost_per_1k, offer.capability
    if constraints.local_only and not offer.local:
        return "the request allows this machine only"
    if not may_use(constraints.models, capability.model):
        return "the key of the request may not use it"
    if constraints.general_only and not capability.general:
        return "the request wants a general model"
    if cost is not None and capability.cost_per_1k > cost:
        return f"costs {capability.cost_per_1k:g} for 1,000 tokens, the request allows {cost:g}"
    if capability.size_b < constraints.min_size_b:
        has = f"{capability.size_b:g} billion parameters" if capability.size_b else "an unknown number of parameters"
        return f"has {has}, the request wants {constraints.min_size_b:g} billion"
    if constraints.residency and capability.residency.lower() != constraints.residency.lower():
        return f"does not promise that data stays in {constraints.residency[:32]}"
    if constraints.gpu_only and capability.device == "cpu":
        return "runs on a CPU, the request wants a GPU"
    return ""


def may_use(models: Sequence[str], model: str) -> bool:
    """Says whether one of the patterns `models` names `model`; no pattern means all."""
    return not models or any(fnmatch.fnmatchcase(model, pattern) for pattern in models)


def _too_far(constraints: Constraints, offer: Offer) -> str:
    rtt = constraints.max_rtt_s
    if rtt is not None and (offer.rtt_s is None or offer.rtt_s > rtt):
        away = "an unknown time" if offer.rtt_s is None else f"{offer.rtt_s * 1_000:.0f} ms"
        return f"{away} away, the request allows {rtt * 1_000:.0f} ms"
    return ""


def _by_name(request: RouteRequest, offers: Offers, able: Able, allowed: Able, known: Known) -> Choice | Failure:
    model = request.model
    try:
        found = offers_named(model, allowed)
        if not found and offers_named(model, able):
            return _constrained(request, Able(list(offers_named(model, able))), offers.fresh)
        elsewhere = found or offers_named(model, offers.all)
    except ValueError as error:
        return Failure(400, f"The model '{model[:128]}' cannot be read: {error}.", "invalid_model_version", "model")
    if not found:
        return _unknown(request, able, elsewhere, known)
    names = {offer.capability.model for offer in found}

    def why_not(offer: Offer) -> str:
        return "another version" if offer.capability.model in names else "the request names another model"

    return Choice(rules.RULE_MODEL, f"the request names {model}", (found,), why_not)


def _unknown(request: RouteRequest, able: Able, elsewhere: Tier, known: Known) -> Failure:
    shown, name = request.model[:128], request.model.partition("@")[0]
    if elsewhere:
        operation = next(iter(elsewhere)).capability.operation
        where = f": send it to {ENDPOINTS[operation]}" if operation in ENDPOINTS else ""
        return Failure(
            400,
            f"The model '{shown}' does {operation}, not {request.operation}{where}.",
            "model_not_supported",
            "model",
        )
    same_name = offers_named(name, able)
    if same_name:
        versions = sorted(able.models.get(name, ()))
        has = f"the mesh has {_list(versions)}" if any(versions) else f"it has none, ask for '{name[:128]}'"
        return Failure(404, f"No version of '{name[:128]}' fits '{shown}': {has}.", "model_not_found", "model")
    kind = known.get(request.model, known.get(name))
    if kind:
        return Failure(
            503,
            f"The mesh keeps the model '{shown}', but this version of Atmosphere cannot run models of {kind[:128]}: "
            "convert it and import it as ONNX, or use another model.",
            "model_not_runnable",
            "model",
            kind="api_error",
        )
    if kind is not None:
        return Failure(
            503,
            f"The mesh knows the model '{shown}', but no live node runs it: "
            f"get it onto this one (atmo model pull {name[:128]}) or start a node that has it.",
            "model_unavailable",
            "model",
            kind="api_error",
        )
    models = sorted(model for model in able.models if may_use(request.constraints.models, model))
    near = difflib.get_close_matches(request.model[:128], models[:512], n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    has = (
        f"for {request.operation} the mesh has {_list(models)}" if models else f"no model does {request.operation} yet"
    )
    return Failure(
        404,
        f"The model '{shown}' does not exist: {has}.{hint} GET /v1/models lists all; "
        f'"model": "auto" lets the mesh choose.',
        "model_not_found",
        "model",
    )


def _constrained(request: RouteRequest, able: Able, fresh: Callable[[Offer], Offer]) -> Failure:
    lacking = [set(offer.capability.lacks(request.needs)) for offer in able.offers]
    common = sorted(set.intersection(*lacking))
    if common:
        who = f"The model '{request.model[:128]}'" if not request.auto else f"No model for {request.operation} here"
        lists = "" if request.auto else " Name another model, or let the mesh choose with 'auto'."
        return Failure(
            400,
            f"{who} can{'not' if not request.auto else ''} {NEEDS.get(common[0], common[0])}.{lists}",
            "unsupported_feature",
            _FIELDS.get(common[0]),
        )
    allowed = request.constraints.models
    if allowed and not any(may_use(allowed, model) for model in able.models):
        shown = f"the model '{request.model[:128]}'" if not request.auto else f"any model that does {request.operation}"
        return Failure(
            403,
            f"Your key may not use {shown}; it may use {_list(allowed)}.",
            "model_not_allowed",
            "model",
            kind="permission_error",
        )
    one = fresh(next(offer for offer in able.offers if may_use(allowed, offer.capability.model)))
    why = f"{one.capability.model[:128]} on {one.node_name}: {ruled_out(one, request)}"
    return Failure(
        503,
        f"No node that does {request.operation} meets what the request asks for ({why}):"
        " relax its constraints or add a node.",
        "constraints_not_met",
        kind="api_error",
    )


def _by_default(operation: str, allowed: Able) -> Choice:
    """Vectors of two models cannot be compared, so the choice depends on nothing that changes from call to call."""
    model = allowed.default.capability.model
    reason = f"{model} is the model for {operation} where none is named"
    if operation == EMBEDDINGS:
        reason = f"{model} makes every embedding that names no model, so that vectors can be compared"
    return Choice(
        rules.RULE_DEFAULT,
        reason,
        (offers_named(model, allowed),),
        lambda _: "another model is the default",
    )


def _by_meaning(request: RouteRequest, allowed: Able, scores: Scores | None, threshold: float) -> Choice | Failure:
    general, special = allowed.general, allowed.special
    known = scores or {}
    score, best = _nearest(special, known)

    def why_not(offer: Offer) -> str:
        if offer.capability.model == best:
            return "an older version" if score >= threshold else f"similarity {score:.2f} is below {threshold:.2f}"
        similarity = known.get(key_of(offer.capability))
        if similarity is None:
            return "what it does could not be compared with the request"
        if similarity < threshold:
            return f"similarity {similarity:.2f} is below {threshold:.2f}"
        return f"{best} is nearer to the request ({score:.2f} against {similarity:.2f})"

    if len(special) and score >= threshold:
        reason = f"what the request says is near to what {best} does (similarity {score:.2f})"
        return Choice(rules.RULE_MEANING, reason, (offers_named(best, special), *general), why_not)
    if general:
        reason = "no specialist is near to the request, a general model takes it"
        return Choice(rules.RULE_GENERAL, reason, general, why_not)
    if known or request.operation in (CHAT, COMPLETIONS):
        reason = f"no general model is in the mesh, {best} is the nearest specialist"
        return Choice(rules.RULE_NEAREST, reason, (offers_named(best, special),), why_not)
    models = sorted(special.models)
    return Failure(
        400,
        f"Several models do {request.operation} and the request has no words to choose by: "
        f"name one of {_list(models)}.",
        "model_required",
        "model",
    )


def _nearest(special: Able, known: Scores) -> tuple[float, str]:
    """Returns the similarity of the nearest specialist and its model; of several that are as near, this machine's."""
    if not len(special):
        return -1.0, ""
    order = min((-known.get(key, -1.0), preference(offer)) for key, offer in special.meanings.items())
    return -order[0], order[1][1]


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name[:64] for name in names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
