"""`atmo mesh`: create, invite, join, discover, nodes, revoke, hand-over."""

from __future__ import annotations

import difflib
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from atmo.cli.client import open_access
from atmo.cli.common import (
    EXIT_ERROR,
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
from atmo.shell.views import NODE_HEADERS, SHORT_ID_CHARS, node_rows, path_notes

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
        for line in path_notes(members):
            say(line)
    if not any(member.get("roles") for member in members):
        say("This machine is in no mesh. Create one with `atmo mesh create NAME`, or join with `atmo mesh join CODE`.")
    elif not online:
        say("This machine's node is not running: this is what it last knew.")


@app.command()
def discover(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, max=60.0, help="For how long to listen.")] = 3.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the meshes and nodes that say on this LAN that they are there.

    Nobody proves what is said on a LAN: a mesh counts when its code was used. Ends with exit code 1 where nobody but
    this machine is heard of.

    \b
    Examples:
      atmo mesh discover
      atmo mesh discover --seconds 10 --json
    """
    import trio

    from atmo.services.lan import look_around

    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    own, mesh = _who(home_of(context, home))
    found = trio.run(look_around, seconds, own, mesh)
    others = [
        node
        for nodes in (*(entry["nodes"] for entry in found["meshes"]), found["nodes_without_mesh"])
        for node in nodes
        if not node["self"]
    ]
    if as_json:
        print_json(found)
    else:
        _show_lan(found)
        _say_next(found, bool(mesh), bool(others))
    if not others:
        raise typer.Exit(EXIT_ERROR)


def _who(home: Path) -> tuple[str, str | None]:
    """Returns this node's id and its mesh's; a home that is not there yet is not made for it."""
    if not home.exists():
        return "", None
    with open_access(home) as access:
        status = access.status()
    return status["node_id"], (status["mesh"] or {}).get("id")


def _show_lan(found: dict[str, Any]) -> None:
    rows = [
        (entry["name"], entry["id"][:SHORT_ID_CHARS], "yes" if entry["yours"] else "no", *_lan_node(node))
        for entry in found["meshes"]
        for node in entry["nodes"]
    ]
    rows += [("-", "-", "no", *_lan_node(node)) for node in found["nodes_without_mesh"]]
    if rows:
        print_table(("MESH", "MESH ID", "YOURS", "NODE", "NODE ID", "ADDRESSES"), rows)


def _lan_node(node: dict[str, Any]) -> tuple[str, str, str]:
    name = node["name"] + ("*" if node["self"] else "")
    return name, node["id"][:SHORT_ID_CHARS], " ".join(node["addresses"]) or "-"


def _say_next(found: dict[str, Any], member: bool, others: bool) -> None:
    if not others:
        say(
            "No other node is heard of on this LAN. Is one running, without --no-lan, and listening on more than"
            " 127.0.0.1? Nodes do not hear each other over a router or another VLAN, through a firewall that blocks"
            " multicast (UDP port 5353), or in a Wi-Fi with client isolation. A code works there, too:"
            " `atmo mesh invite` on a machine of the mesh, `atmo mesh join CODE` on the other."
        )
    elif not member and found["meshes"]:
        say(
            "This machine is in no mesh. To join one of these, run `atmo mesh invite` on one of its admins, and here"
            " `atmo mesh join CODE`."
        )
    elif not member:
        say("None of these is in a mesh. Create one with `atmo mesh create NAME`.")


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
