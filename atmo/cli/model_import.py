"""`atmo model import`: one file, shown before it is stored, or all of a folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from atmo.cli.client import Access, open_access
from atmo.cli.common import HomeOption, JsonOption, home_of, print_json, print_table, say, split_names
from atmo.errors import UserError
from atmo.shell.progress import shown_progress
from atmo.shell.text import count_text, printable, size_text
from atmo.shell.transfer_views import result_line
from atmo.shell.views import MODEL_HEADERS, brief, model_rows

LLAMAFARM_MODELS = "~/.llamafarm/models"
"""Source: seed 000."""


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("import")(import_model)


def import_model(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="The model's file.")] = None,
    name: Annotated[str | None, typer.Option(help="[default: the file's name]", metavar="NAME")] = None,
    version: Annotated[str | None, typer.Option(help="PEP 440, such as 1.2.0.", metavar="VERSION")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Such as classifier; of a folder, only these.", metavar="TYPE")
    ] = None,
    capabilities: Annotated[str | None, typer.Option(help="What it can do, with commas.", metavar="A,B")] = None,
    description: Annotated[str, typer.Option(help="One sentence; routing by meaning reads it.", metavar="TEXT")] = "",
    private: Annotated[bool, typer.Option("--private", help="Do not tell the mesh until it is published.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    llamafarm: Annotated[
        bool, typer.Option("--llamafarm", help=f"All models of LlamaFarm, from {LLAMAFARM_MODELS}.")
    ] = False,
    source: Annotated[Path | None, typer.Option("--from", help="All models below this folder.", metavar="DIR")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model into this machine's store and offer it to the mesh.

    The format is detected by the content: ONNX, GGUF, safetensors, joblib, pickle. On a terminal it is shown what the
    file would become, and asked whether that is right, unless its capabilities are given.

    \b
    Examples:
      atmo model import iris.onnx
      atmo model import net.joblib --name intrusion --version 2.1.0 \\
          --type classifier --capabilities classify,network
      atmo model import --llamafarm --type anomaly
    """
    folder = source if source is not None else Path(LLAMAFARM_MODELS) if llamafarm else None
    if (folder is None) == (path is None):
        raise typer.BadParameter("Name one file, or a folder with --llamafarm or --from DIR.")
    if folder is not None:
        if name or version or capabilities or description or private:
            raise typer.BadParameter("Of all models of a folder only --type can be given.")
        _import_folder(context, _absolute(folder), kind, home, as_json)
        return
    assert path is not None
    file = _absolute(path)
    if not file.exists():
        raise UserError(f"{path}: there is no such file.")
    if file.is_dir():
        raise UserError(
            f"{path} is a folder.", f"Name one file, or import all models in it: `atmo model import --from {path}`."
        )
    fields = {
        "path": str(file),
        "name": name,
        "version": version,
        "type": kind,
        "capabilities": split_names(capabilities),
        "description": description,
    }
    with open_access(home_of(context, home)) as access:
        if not (yes or as_json or fields["capabilities"]) and _is_terminal():
            fields |= _asked(access, fields)
        with shown_progress(f"Importing {printable(file.name)}", sys.stderr, quiet=as_json) as show:
            row = access.import_model({**fields, "private": private}, show)
    _print_imported(row, as_json)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _absolute(path: Path) -> Path:
    return Path.cwd() / path.expanduser()


def _asked(access: Access, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Shows what the file would become and returns what the person made of it.

    Raises:
        UserError: The person wants something else.
    """
    seen = access.preview(fields)
    about = seen.get("config") or {}
    told = [f"{key.replace('_', ' ')}: {brief(about[key])}" for key in _SHOWN if about.get(key)]
    rows = [
        ("name", seen["name"]),
        ("version", seen["version"]),
        ("type", seen["type"]),
        ("format", f"{seen['format']}, {size_text(seen['size_bytes'])}"),
        ("capabilities", ", ".join(seen["capabilities"]) or "none were found"),
        ("in the file", ", ".join(told)),
    ]
    width = max(len(title) for title, _ in rows)
    for title, value in rows:
        if value:
            say(f"  {title.ljust(width)}  {printable(value)}")
    if seen.get("converted"):
        say("It can run code when it is loaded: it is converted to ONNX, and only that is stored.")
    found = ",".join(seen["capabilities"])
    given = typer.prompt("Capabilities, with commas", default=found, err=True, show_default=bool(found))
    if not typer.confirm("Import it like this?", default=True, err=True):
        raise UserError("Nothing was imported.", "Give --name, --version, --type or --capabilities.")
    chosen = split_names(given)
    return {"capabilities": chosen} if chosen != seen["capabilities"] else {}


_SHOWN = (
    "estimator",
    "labels",
    "classes",
    "architecture",
    "quantization",
    "context_length",
    "parameters",
    "opset",
    "tensors",
)


def _print_imported(row: Mapping[str, Any], as_json: bool) -> None:
    from atmo.backends.store import what_to_install, why_not_run

    if as_json:
        print_json(row)
        return
    print(result_line("Imported", row))
    kind = why_not_run(str(row.get("format", "")), str(row.get("type", "")))
    if kind:
        say(f"No node of this version can run models of {printable(kind)}; the mesh keeps and shares the file.")
    elif missing := what_to_install(str(row.get("format", ""))):
        say(f"This machine keeps and shares the file. To have it run here: pip install '{missing}'")


def _import_folder(context: typer.Context, folder: Path, kind: str | None, home: Path | None, as_json: bool) -> None:
    with open_access(home_of(context, home)) as access:
        with shown_progress("Importing", sys.stderr, quiet=as_json) as show:
            result = access.import_folder({"path": str(folder), "type": kind}, show)
    imported, here, skipped = result["imported"], result["here"], result["skipped"]
    if as_json:
        print_json(result)
    else:
        if imported:
            print_table(MODEL_HEADERS, model_rows(imported))
        if skipped:
            print_table(("SKIPPED", "WHY"), [[row["path"], row["why"]] for row in skipped], wrapped=True)
        ignored = f"; {count_text(result['ignored'], 'other file')}" if result["ignored"] else ""
        print(f"Imported {len(imported)}, already here {len(here)}, skipped {len(skipped)}{ignored}.")
    if skipped and not imported and not here:
        raise typer.Exit(1)
