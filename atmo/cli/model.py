"""`atmo model`: list, info, remove; its other commands stand in modules of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from atmo.cli import model_care, model_import, model_transfers
from atmo.cli.client import Scope, open_access
from atmo.cli.common import HomeOption, JsonOption, home_of, new_group, print_json, print_table, say
from atmo.shell.text import printable, size_text
from atmo.shell.views import MODEL_HEADERS, holder_rows, info_lines, model_rows

app = new_group("Import, find, pull and remove models.")


@app.command("list")
def list_models(
    context: typer.Context,
    mesh: Annotated[bool, typer.Option("--mesh", help="All models of the mesh.")] = False,
    available: Annotated[bool, typer.Option("--available", help="Those of the mesh that are not here.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models of this machine.

    \b
    Examples:
      atmo model list
      atmo model list --mesh
      atmo model list --available --json
    """
    if mesh and available:
        raise typer.BadParameter("--mesh and --available exclude each other.")
    scope: Scope = "mesh" if mesh else "available" if available else "local"
    with open_access(home_of(context, home)) as access:
        models = access.models(scope)
    if as_json:
        print_json(models)
    elif models:
        print_table(MODEL_HEADERS, model_rows(models))
    else:
        say(_NO_MODELS[scope])


_NO_MODELS: dict[Scope, str] = {
    "local": "There are no models on this machine. Import one with `atmo model import PATH`, "
    "or see those of the mesh with `atmo model list --mesh`.",
    "mesh": "There are no models in the mesh. Import one with `atmo model import PATH`.",
    "available": "The mesh has no models that this machine does not have.",
}


@app.command()
def info(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name.")],
    versions: Annotated[bool, typer.Option("--versions", help="Only its versions.")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="Only the machines that have it.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything about a model.

    \b
    Examples:
      atmo model info iris
      atmo model info iris --versions
      atmo model info iris --nodes --json
    """
    if versions and nodes:
        raise typer.BadParameter("--versions and --nodes exclude each other.")
    with open_access(home_of(context, home)) as access:
        found = access.info_of(name)
    same_name = found.get("versions") or []
    holders = holder_rows(same_name)
    if as_json:
        print_json(same_name if versions else holders if nodes else found)
    elif versions:
        print_table(MODEL_HEADERS, model_rows(same_name))
    elif nodes:
        print_table(("NODE", "VERSIONS"), [[row["name"], ", ".join(row["versions"])] for row in holders])
    else:
        for line in info_lines(found):
            print(line)
        if len(same_name) > 1:
            print()
            print_table(MODEL_HEADERS, model_rows(same_name))


@app.command()
def remove(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(help="A name, or one version of it.", metavar="NAME[@VERSION]")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a model from this machine; the rest of the mesh keeps its copies.

    \b
    Examples:
      atmo model remove iris
      atmo model remove iris@1.0.0
    """
    with open_access(home_of(context, home)) as access:
        removed = access.remove(spec)
    if as_json:
        print_json(removed)
        return
    if not removed:
        print(f"Removed what had arrived of {printable(spec)}; no whole version of it was here.")
    for row in removed:
        print(f"Removed {printable(row['name'])} {printable(row['version'])}, {size_text(row['size_bytes'])}.")


model_import.add_to(app)
model_transfers.add_to(app)
model_care.add_to(app)
