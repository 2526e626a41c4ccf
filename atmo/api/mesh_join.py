"""`POST /v1/mesh/join`: brings this machine into a mesh. Whoever may do that rules the machine: only its owner does."""

# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from atmo.api.account import Account
from atmo.api.documents.schema import request_body
from atmo.api.exchange import Body, Exchange, send_json
from atmo.api.guard import is_loopback
from atmo.api.routing import Router
from atmo.errors import RemoteError, RequestError, UserError, leaf_error
from atmo.gateway.budget import ByteBudget
from atmo.gateway.checks import bad
from atmo.services.mesh import MeshService


def join_routes(token: str, mesh: MeshService, budget: ByteBudget) -> Router:
    """Returns the route.

    It wants the token of `run/node.json`, which only the owner of this node's home can read, and comes from this
    machine. No key opens it, whatever it may do else: keys are for using a node, not for ruling it.

    Args:
        token: The node's; must not be empty.
        mesh: Joins.
        budget: Bounds what all bodies hold.
    """
    assert token
    router = Router(prefix="/v1/mesh")
    expected = b"Bearer " + token.encode()

    def authorise(request: Request) -> None:
        if request.client is None or not is_loopback(request.client.host):
            message = "A mesh is joined from the machine itself: use `atmo mesh join CODE` there."
            raise RequestError(403, message, kind="permission_error", code="not_this_machine")
        if not hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), expected):
            message = "Joining a mesh wants this node's token, which is in run/node.json; keys do not open it."
            raise RequestError(401, message, kind="authentication_error", code="invalid_token")

    async def work(body: Body, send: Send, _account: Account) -> None:
        code = body.get("code")
        if not isinstance(code, str) or not code:
            raise bad("code", "must be a join code, as `atmo mesh invite` prints it")
        try:
            joined = await mesh.join(code)
        except (UserError, RemoteError, BaseExceptionGroup) as error:
            leaf = leaf_error(error)
            if isinstance(leaf, UserError):
                raise RequestError(409, str(leaf), code="cannot_join", param="code") from error
            if isinstance(leaf, RemoteError):
                raise RequestError(502, f"Nobody of the code answers: {leaf}.", kind="api_error") from error
            raise
        await send_json(send, {"object": "mesh", **joined})

    @router.post("/join", request_body("code"))
    async def join(request: Request) -> Response:
        """Brings this machine into the mesh of a join code."""
        authorise(request)
        return Exchange(budget, work)

    return router
