"""`atmo model` verify, diff, gc, publish, deprecate, rollback, update, trust and publishers."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from atmo.cli.client import open_access
from atmo.cli.common import HomeOption, JsonOption, home_of, print_json, print_table, say
from atmo.cli.model_jobs import run_job, with_consent
from atmo.shell.text import count_text, printable, size_text

OneModel = Annotated[str, typer.Argument(help="A model, or versions of it.", metavar="NAME[@RANGE]")]
SHOWN_DAMAGES = 20


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (verify, diff, gc, publish, deprecate, rollback, update, trust, publishers):
        app.command()(command)


def verify(
    context: typer.Context,
    spec: Annotated[str | None, typer.Argument(help="Only this model.", metavar="NAME[@RANGE]")] = None,
    look: Annotated[bool, typer.Option("--look", help="Repair nothing.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read models again, byte by byte, and repair what is damaged, from the mesh where this machine has it nowhere.

    Its exit code is 1 where damage is left.

    \b
    Examples:
      atmo model verify
      atmo model verify iris --look
    """
    with open_access(home_of(context, home)) as access:
        fields = {"spec": spec, "repair": not look}
        found, _ = run_job(access, "verify", "Verifying", fields, as_json)
    if as_json:
        print_json(found)
    else:
        rows = [
            [f"{damage['name']} {damage['version']}", damage["file"], damage["kind"], str(damage["offset"]),
             "yes" if damage["repaired"] else "no"]
            for damage in found["damages"][:SHOWN_DAMAGES]
        ]  # fmt: skip
        if rows:
            print_table(("MODEL", "FILE", "WHAT", ">AT BYTE", "REPAIRED"), rows)
        if found["damaged"] > len(rows):
            print(f"and {found['damaged'] - len(rows)} more")
        left = found["damaged"] - found["repaired"]
        verdict = "all is right" if not found["damaged"] else f"{found['repaired']} repaired, {left} left"
        print(f"Read {count_text(found['models'], 'model')}, {size_text(found['bytes'])}: {verdict}.")
        if left:
            say("Verify again when a machine is there that has it, or remove it and import it again.")
    if not found["clean"]:
        raise typer.Exit(1)


def diff(
    context: typer.Context,
    base: Annotated[str, typer.Argument(help="What a machine has.", metavar="NAME[@VERSION]")],
    target: Annotated[str, typer.Argument(help="What it would pull.", metavar="NAME[@VERSION]")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would travel to a machine that has one version and pulls another.

    Deltas are measured where both versions are here; else what is told is the most that travels.

    \b
    Examples:
      atmo model diff iris@1.0 iris@2.0
      atmo model diff iris@1.0 iris@2.0 --json
    """
    with open_access(home_of(context, home)) as access:
        found, _ = run_job(access, "diff", "Comparing", {"base": base, "target": target}, as_json)
    if as_json:
        print_json(found)
        return
    measured = found["deltas_measured"]
    headers = ("FILE", ">SIZE", ">SHARED", ">NEW", *((">WITH DELTAS",) if measured else ()))
    rows = []
    for file in found["files"]:
        sizes = [file["size_bytes"], file["shared_bytes"], file["whole_bytes"]]
        sizes += [file["delta_bytes"]] if measured else []
        rows.append([file["path"], *(size_text(size) for size in sizes)])
    print_table(headers, rows)
    size, travels = found["size_bytes"], found["travels_bytes"]
    share = f", {100 * travels / size:.1f} %" if size else ""
    about = "" if found["exact"] else "about " if measured else "at most "
    print(
        f"From {printable(found['base'])} to {printable(found['target'])} {about}{size_text(travels)} of"
        f" {size_text(size)} travel{share}."
    )
    if not measured and not found["exact"]:
        say("How much deltas save of that is not known: it is measured where both versions are on this machine.")


def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what the store does not need: downloads that were given up, and what was left behind.

    Nothing is touched that a transfer or a loaded model uses. Where the store is over its limits models are evicted.

    \b
    Examples:
      atmo model gc --dry-run
      atmo model gc
    """
    with open_access(home_of(context, home)) as access:
        found, _ = run_job(access, "gc", "Tidying up", {"dry_run": dry_run}, as_json)
    if as_json:
        print_json(found)
        return
    for title, names in (("download", found["downloads"]), ("file", found["files"]), ("evicted", found["evicted"])):
        for name in names:
            print(f"  {title}  {printable(name)}")
    print(f"{'Would free' if dry_run else 'Freed'} {size_text(found['bytes'])}.")


def publish(
    context: typer.Context,
    spec: OneModel,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it anew with this node's key.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model of this machine known to the mesh.

    \b
    Examples:
      atmo model publish iris
      atmo model publish iris@2.0 --sign
    """
    with open_access(home_of(context, home)) as access:
        row, _ = run_job(access, "publish", "Publishing", {"spec": spec, "sign": sign}, as_json)
    if as_json:
        print_json(row)
        return
    how = " and signed it" if row["signed"] else ""
    done = row["was_private"] or row["signed"]
    print(
        f"{'Published' if done else 'Was public already:'} {printable(row['name'])} {printable(row['version'])}{how}."
    )


def deprecate(
    context: typer.Context,
    spec: Annotated[str | None, typer.Argument(help="A model, or versions of it.", metavar="NAME[@RANGE]")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for people.", metavar="TEXT")] = None,
    replacement: Annotated[str | None, typer.Option(help="What to use instead.", metavar="NAME[@RANGE]")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what is advised against.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Advise the mesh against versions of a model: they are chosen last, and nothing is updated to them.

    \b
    Examples:
      atmo model deprecate 'iris@<2' --reason 'wrong labels' --replacement 'iris@>=2'
      atmo model deprecate 'iris@<2' --undo
      atmo model deprecate --list
    """
    if listed == (spec is not None):
        raise typer.BadParameter("Name a model, or show all with --list.")
    with open_access(home_of(context, home)) as access:
        if listed:
            _print_known(access.known("deprecations"), ("name", "range", "by", "counts", "reason"), as_json)
            return
        fields = {"spec": spec, "reason": reason, "replacement": replacement, "undo": undo}
        row, _ = run_job(access, "deprecate", "Telling the mesh", fields, as_json)
    if as_json:
        print_json(row)
    else:
        verb = "No longer advises against" if undo else "Advises against"
        print(f"{verb} {printable(row['name'])} {printable(row['range'] or 'in all its versions')}.")


def rollback(context: typer.Context, spec: OneModel, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Go back to the version before, or to another one, until the model is updated; newer ones stay and rest.

    \b
    Examples:
      atmo model rollback iris
      atmo model rollback iris@1.2.0
    """
    with open_access(home_of(context, home)) as access:
        row, _ = run_job(access, "rollback", f"Rolling back {printable(spec)}", {"spec": spec}, as_json)
    _print_change("Went back", row, as_json)


def update(
    context: typer.Context,
    spec: Annotated[str | None, typer.Argument(help="A model, or versions of it.", metavar="NAME[@RANGE]")] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Keep it up to date from now on.")] = False,
    manual: Annotated[bool, typer.Option("--manual", help="Do not keep it up to date any more.")] = False,
    trusted: Annotated[bool, typer.Option("--trust", help="Trust its publisher from now on.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also one that does not fit this machine.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what is kept up to date or was rolled back.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on to the newest version of a model, and undo a rollback.

    \b
    Examples:
      atmo model update iris
      atmo model update 'iris@<2' --auto
      atmo model update --list
    """
    if listed == (spec is not None) or (auto and manual):
        raise typer.BadParameter("Name a model, with --auto or --manual at most, or show all with --list.")
    with open_access(home_of(context, home)) as access:
        if listed:
            _print_known(access.known("updates"), ("name", "active", "newest", "auto", "rolled_back"), as_json)
            return
        if auto or manual:
            row, _ = run_job(access, "auto", "Noting", {"spec": spec, "on": auto}, as_json)
            if as_json:
                print_json(row)
            else:
                name, kept = printable(row["name"]), row["auto"]
                print(f"{name} is kept up to date: {printable(kept)}." if kept else f"{name} stays as it is.")
            return
        fields = {"spec": spec, "trust": trusted, "force": force}
        row, _ = with_consent(access, "update", f"Updating {printable(spec)}", fields, as_json)
    _print_change("Updated", row, as_json)


def trust(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="A node, by its name or id.", metavar="NODE")],
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse its models instead.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Take the decision back.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide whether models that a node has published may come here.

    \b
    Examples:
      atmo model trust central-01
      atmo model trust central-01 --refuse
    """
    if refuse and forget:
        raise typer.BadParameter("--refuse and --forget exclude each other.")
    with open_access(home_of(context, home)) as access:
        row, _ = run_job(access, "trust", "Noting", {"node": node, "refuse": refuse, "forget": forget}, as_json)
    if as_json:
        print_json(row)
    else:
        verb = "Decides anew on" if forget else "Refuses" if refuse else "Trusts"
        print(f"{verb} models of {printable(row['name'])} ({printable(row['fingerprint'])}).")


def publishers(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the publishers of models on whom somebody decided.

    \b
    Examples:
      atmo model publishers
      atmo model publishers --json
    """
    with open_access(home_of(context, home)) as access:
        rows = access.known("publishers")
    shown = [{**row, "since": time.strftime("%Y-%m-%d", time.localtime(row["decided_at"]))} for row in rows]
    _print_known(rows if as_json else shown, ("name", "trusted", "since", "roles", "fingerprint"), as_json)


def _print_known(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        headers = [column.replace("_", " ").upper() for column in columns]
        print_table(headers, [[_cell(row.get(column)) for column in columns] for row in rows])
    else:
        say("There are none.")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) if isinstance(value, list) else str(value or "")) or "-"


def _print_change(verb: str, row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    elif row["before"] == row["active"]:
        print(f"{printable(row['name'])} stays at {printable(row['active'])}.")
    else:
        print(f"{verb} from {printable(row['name'])} {printable(row['before'])} to {printable(row['active'])}.")
