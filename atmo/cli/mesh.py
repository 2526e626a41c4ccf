"""`atmo mesh`: create, invite, join, nodes, revoke, hand-over."""

from __future__ import annotations

import difflib
import sys
import time
from typing import Annotated

import typer

from atmo.cli.client import open_access
from atmo.cli.common import (
    HomeOption,
    JsonOption,
    home_of,
    new_group,
    parse_duration,
    print_json,
    print_table,
    say,
)
from atmo.shell.text import printable
from atmo.shell.views import NODE_HEADERS, node_rows

MAX_CODE_CHARS = 16_384
"""What is read of a code from a pipe: several times what the longest one has."""

ROLES = ("edge", "gateway", "admin")
"""Those that this version gives a meaning; a mesh may have others."""

app = new_group("Create a mesh, let machines in and out, see who is there.")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What people call the mesh.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a mesh with this machine as its founder.

    \b
    Example:
      atmo mesh create home
    """
    with open_access(home_of(context, home)) as access:
        mesh = access.create(name)
    if as_json:
        print_json(mesh)
        return
    print(f"Created the mesh {printable(mesh['name'])}, id {mesh['id']}.")
    say("Let another machine in with the code that `atmo mesh invite` prints.")


@app.command()
def invite(
    context: typer.Context,
    role: Annotated[
        str, typer.Option(metavar="ROLE", help="What the new machine may do: edge, gateway, admin.")
    ] = "edge",
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the code works: 90s, 30m, 24h, 7d.")] = "24h",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a code that lets one machine in, once.

    The code stands alone on the last line of the output. Should this machine be away when it is used, the other admins
    that are known now let the machine in: up to three are named in the code.

    \b
    Examples:
      atmo mesh invite
      atmo mesh invite --role gateway --expires 30m
      CODE=$(atmo mesh invite)
    """
    seconds = parse_duration(expires)
    if role not in ROLES:
        near = difflib.get_close_matches(role, ROLES, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        say(f"warning: this version knows no role {printable(role)}, it gives {', '.join(ROLES)} a meaning.{meant}")
    with open_access(home_of(context, home)) as access:
        made = access.invite(role, seconds)
        online = access.online
    if as_json:
        print_json(made)
        return
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(made["expires_at"]))
    say(f"This code lets one machine in, with the role {made['role']}, until {until}. There: atmo mesh join CODE")
    if not online:
        say("This machine must be running `atmo node` when the code is used; other admins learn of the code from it.")
    print(made["code"])


@app.command()
def join(
    context: typer.Context,
    code: Annotated[str, typer.Argument(help="What `atmo mesh invite` printed on a machine of the mesh; - reads it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join the mesh of a code.

    \b
    Examples:
      atmo mesh join atmo1mfrgg...
      ssh kitchen atmo mesh invite | atmo mesh join -
    """
    if code == "-":
        code = sys.stdin.read(MAX_CODE_CHARS)
    with open_access(home_of(context, home)) as access:
        mesh = access.join(code)
        online = access.online
    if as_json:
        print_json(mesh)
        return
    print(f"Joined the mesh {printable(mesh['name'])}.")
    say("See who is there with `atmo mesh nodes`." if online else "Start this machine's node with `atmo node`.")


@app.command()
def nodes(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the machines of the mesh.

    \b
    Examples:
      atmo mesh nodes
      atmo mesh nodes --json | jq -r '.[].name'
    """
    with open_access(home_of(context, home)) as access:
        members = access.nodes()
        online = access.online
    if as_json:
        print_json(members)
        return
    if members:
        print_table(NODE_HEADERS, node_rows(members))
    if not any(member.get("roles") for member in members):
        say("This machine is in no mesh. Create one with `atmo mesh create NAME`, or join with `atmo mesh join CODE`.")
    elif not online:
        say("This machine's node is not running: this is what it last knew.")


@app.command()
def revoke(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="Its name, its id, or the beginning of its id.")],
    force: Annotated[bool, typer.Option("--force", help="Also put out whom it let in.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a machine out of the mesh, for good, and with `--force` also those that it let in.

    \b
    Examples:
      atmo mesh revoke kitchen
      atmo mesh revoke b7k2m4 --force
    """
    with open_access(home_of(context, home)) as access:
        gone = access.revoke(node, force=force)
        online = access.online
    if as_json:
        print_json(gone)
        return
    print(f"Revoked {printable(gone['name'])}, id {gone['id']}.")
    if not online:
        say("The others learn of it when this machine's node runs.")


@app.command("hand-over")
def hand_over(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="Its name, its id, or the beginning of its id.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hand this founder's rights to another machine, for good.

    From then on that machine has the rights of a founder, and this one is an ordinary member. Everybody's certificate
    is renewed within a day or two; after that the old key can be put out with `atmo mesh revoke`, if it may be in
    wrong hands.

    \b
    Examples:
      atmo mesh hand-over attic
      atmo mesh hand-over b7k2m4
    """
    with open_access(home_of(context, home)) as access:
        heir = access.hand_over(node)
        online = access.online
    if as_json:
        print_json(heir)
        return
    print(f"Handed over to {printable(heir['name'])}, id {heir['id']}.")
    if not online:
        say("The others learn of it when this machine's node runs.")
