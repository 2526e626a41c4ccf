"""`atmo model`: import, list, info, pull, remove."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from atmo.cli.client import Scope, open_access
from atmo.cli.common import (
    HomeOption,
    JsonOption,
    home_of,
    new_group,
    print_json,
    print_table,
    say,
    split_names,
)
from atmo.errors import UserError
from atmo.shell.progress import shown_progress
from atmo.shell.text import printable, size_text
from atmo.shell.views import MODEL_HEADERS, holder_rows, info_lines, model_rows

HERE_ALREADY = "here already"
"""The phase of a pull that had nothing to do. Source: `atmo.services.progress.Progress`."""

app = new_group("Import, find, pull and remove models.")


@app.command("import")
def import_model(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The model's file.")],
    name: Annotated[str | None, typer.Option(help="[default: the file's name]", metavar="NAME")] = None,
    version: Annotated[str | None, typer.Option(help="PEP 440, such as 1.2.0.", metavar="VERSION")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Such as classifier.", metavar="TYPE")] = None,
    capabilities: Annotated[str | None, typer.Option(help="What it can do, with commas.", metavar="A,B")] = None,
    description: Annotated[str, typer.Option(help="One sentence; routing by meaning reads it.", metavar="TEXT")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model into this machine's store and offer it to the mesh.

    The format is detected: ONNX, GGUF, safetensors, PyTorch, joblib, pickle.

    \b
    Examples:
      atmo model import iris.onnx
      atmo model import net.joblib --name intrusion --version 2.1.0 \\
          --type classifier --capabilities classify,network
    """
    from atmo.backends.store import why_not_run

    file = Path.cwd() / path.expanduser()
    if not file.exists():
        raise UserError(f"{path}: there is no such file.")
    fields = {
        "path": str(file),
        "name": name,
        "version": version,
        "type": kind,
        "capabilities": split_names(capabilities),
        "description": description,
    }
    with open_access(home_of(context, home)) as access:
        with shown_progress(f"Importing {printable(file.name)}", sys.stderr, quiet=as_json) as show:
            row = access.import_model(fields, show)
    _print_result("Imported", row, as_json)
    kind = why_not_run(str(row.get("format", "")), str(row.get("type", "")))
    if kind and not as_json:
        say(f"No node of this version can run models of {printable(kind)}; the mesh keeps and shares the file.")


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
def pull(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(help="A name, or a name with a range of versions.", metavar="NAME[@RANGE]")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model from all machines of the mesh that have it, at once.

    Every part is verified as it arrives. Interrupted with Ctrl-C, the same command goes on where it stopped.

    \b
    Examples:
      atmo model pull iris
      atmo model pull 'iris@>=1.2,<2'
    """
    with open_access(home_of(context, home)) as access:
        if not access.online and not as_json:
            say("No node is running here: taking part in the mesh for as long as this takes.")
        last: Mapping[str, Any] = {}
        with shown_progress(f"Pulling {printable(spec)}", sys.stderr, quiet=as_json) as show:

            def report(progress: Mapping[str, Any]) -> None:
                nonlocal last
                last = progress
                show(progress)

            row = access.pull(spec, report)
    _print_result("Already here:" if last.get("phase") == HERE_ALREADY else "Pulled", row, as_json)


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


def _print_result(verb: str, row: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    name, version = printable(row["name"]), printable(row["version"])
    print(
        f"{verb} {name} {version}: {printable(row['format'])}, {size_text(row['size_bytes'])}, sha256 {row['sha256']}"
    )
