"""The columns in which nodes, models and routing decisions are shown, by the commands and the shell alike."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from atmo.shell.text import printable, size_text, time_text

NODE_HEADERS = ("NAME", "ROLES", "PATH", ">SINCE", ">RTT", ">SEEN", "ID")
PEER_HEADERS = ("NODE", "PATH", "ADDRESS", ">SINCE", ">RTT")
MODEL_HEADERS = ("NAME", "VERSION", "TYPE", "FORMAT", ">SIZE", "HERE", "NODES", "NOTE")
ROUTE_HEADERS = ("", "MODEL", "NODE", "PATH", ">RTT", ">LIKE", ">LOAD", "REASON")
SHORT_ID_CHARS = 10
SHOWN_NODES = 4


def node_rows(nodes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of a table of machines; an asterisk marks this one.

    One without a link has no path: it is reached when it is needed, unless it is believed to be gone.
    """
    return [
        [
            f"{node['name']}{'*' if node.get('self') else ''}",
            ", ".join((["founder"] if node.get("founder") else []) + list(node.get("roles") or [])) or "-",
            str(node.get("path") or ("-" if node.get("present", True) else "gone")),
            time_text(node.get("path_since_s")),
            rtt_text(node.get("rtt_ms")),
            time_text(node.get("last_seen_s")),
            str(node["id"])[:SHORT_ID_CHARS],
        ]
        for node in nodes
    ]


def peer_rows(peers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of a table of the paths to the machines that this one is connected to."""
    return [
        [
            printable(peer["name"]),
            str(peer["path"]),
            str(peer.get("path_address") or "-"),
            time_text(peer.get("path_since_s")),
            rtt_text(peer.get("rtt_ms")),
        ]
        for peer in peers
    ]


def path_notes(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each machine to which there is no direct path, with the reason."""
    return [
        f"{printable(node['name'])} by {node['path']}: {printable(node['no_better_path'])}"
        for node in nodes
        if node.get("no_better_path")
    ]


def model_rows(models: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of a table of models."""
    return [
        [
            str(model["name"]),
            str(model["version"]),
            str(model.get("type") or "-"),
            str(model["format"]),
            size_text(model["size_bytes"]),
            "yes" if model["local"] else "no",
            names_text(model.get("nodes") or []),
            _note(model),
        ]
        for model in models
    ]


def _note(model: Mapping[str, Any]) -> str:
    """Says what is unusual about a version."""
    words = [word for word in ("deprecated", "private") if model.get(word)]
    readers = model.get("readers") or ()
    words += [f"for {names_text(readers)}"] if readers else []
    return ", ".join([*words, *([str(model["source"])] if model.get("source") else [])])


def holder_rows(versions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns who has which of the versions of one model."""
    holders: dict[str, list[str]] = {}
    for version in versions:
        for name in version.get("nodes") or []:
            holders.setdefault(str(name), []).append(str(version["version"]))
    return [{"name": name, "versions": held} for name, held in holders.items()]


_INFO_ELSEWHERE = ("name", "version", "versions", "manifest", "local", "loaded", "checksum_sha256", "file", "files")
_INFO_WHERE_SO = ("deprecated", "private", "active", "rivals")
"""Told where they are true only: it is the usual thing that a version is none of these."""


def info_lines(info: Mapping[str, Any]) -> list[str]:
    """Returns the lines of `atmo model info`: what the row says, then what only the manifest knows."""
    fields = {key: value for key, value in info.items() if key not in _INFO_ELSEWHERE}
    fields = {key: value for key, value in fields.items() if value or key not in _INFO_WHERE_SO}
    for key, value in (info.get("manifest") or {}).items():
        if key not in _INFO_ELSEWHERE:
            fields.setdefault(key, value)
    if fields.get("deprecation"):
        fields.pop("deprecated", None)
    if fields.get("format"):
        fields["runs here"] = _runs_text(str(fields["format"]), str(fields.get("type") or ""))
    shown = [(_title(key), _info_value(key, value)) for key, value in fields.items()]
    shown = [(title, value) for title, value in shown if value]
    width = max((len(title) for title, _ in shown), default=0)
    here = "on this machine" if info.get("local") else "not on this machine"
    first = f"{printable(info['name'])} {printable(info['version'])}, {here}"
    return [first, *(f"  {title.ljust(width)}  {value}" for title, value in shown)]


def _runs_text(model_format: str, model_type: str) -> str:
    """Says whether this machine can run such models, and what it lacks."""
    from atmo.backends.store import what_to_install, why_not_run

    if kind := why_not_run(model_format, model_type):
        return f"no: no node of this version can run models of {printable(kind)}"
    missing = what_to_install(model_format)
    return f"no: pip install '{missing}'" if missing else "yes"


def _info_value(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{size_text(value)} ({value} bytes)"
    if key == "rivals":
        return "; ".join(_rival_text(rival) for rival in value or ())
    if key.endswith("_at") and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    if key == "deprecation" and value:
        why = {name: item for name, item in value.items() if name != "since_s"}
        return f"{_info_value('', why)}, since {_info_value('since_at', value['since_s'])}"
    if key == "first_seen" and value:
        return _info_value("seen_at", datetime.fromisoformat(value).timestamp())
    if value is True:
        return "yes"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name)}: {brief(item)}" for name, item in value.items() if item)
    if isinstance(value, list | tuple):
        return ", ".join(brief(item) for item in value)
    return "" if value is None else printable(value)


def _rival_text(rival: Mapping[str, Any]) -> str:
    """Says who claims a version, and who holds what is claimed."""
    publisher, content = str(rival["publisher"])[:SHORT_ID_CHARS], str(rival["sha256"])[:SHORT_ID_CHARS]
    return printable(f"sha256 {content} published by {publisher}, on {names_text(rival['nodes'])}")


def brief(value: Any) -> str:
    """Returns a value on one line."""
    return printable(json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else value)


def _title(key: str) -> str:
    return key.removesuffix("_s").removesuffix("_bytes").replace("_", " ")


def names_text(names: Sequence[str]) -> str:
    """Joins names, the first few of many."""
    more = f" +{len(names) - SHOWN_NODES}" if len(names) > SHOWN_NODES else ""
    return (", ".join(printable(name) for name in names[:SHOWN_NODES]) or "-") + more


def rtt_text(milliseconds: float | None) -> str:
    """Writes a round-trip time, `-` where it is not known."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def status_lines(status: Mapping[str, Any], columns: int | None = None) -> list[str]:
    """Returns the lines of `atmo status`: who, where, in which mesh, and further single values.

    Args:
        status: As the control API tells it.
        columns: Of the terminal, at which values are wrapped; None to wrap nowhere.
    """
    rest = {key: value for key, value in status.items() if key not in ("running", "pid", "name", "version", "peers")}
    if status.get("running"):
        name = printable(status.get("name", "The node"))
        lines = [f"{name} is running: atmo {printable(status.get('version', ''))}, process {status.get('pid', '?')}"]
    else:
        lines = [f"No node is running on {printable(status.get('home', 'this home'))}."]
    fields: list[tuple[str, str]] = []
    for key, title in _STATUS_TITLES.items():
        if key in rest:
            fields.append((title, _status_value(key, rest.pop(key))))
    for key, value in rest.items():
        if not isinstance(value, Mapping):
            fields.append((_title(key), _status_value(key, value)))
    width = max((len(title) for title, _ in fields), default=0)
    shown = [f"  {title.ljust(width)}  {value}" for title, value in fields if value]
    return lines + [part for line in shown for part in _hanging(line, width + 4, columns)]


def _hanging(line: str, indent: int, columns: int | None) -> list[str]:
    """Breaks a line between words, further lines indented; a word is never broken, so that it can be copied."""
    if columns is None:
        return [line]
    wrapper = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    wrapper.subsequent_indent = " " * min(indent, columns // 2)
    return wrapper.wrap(line)


_STATUS_TITLES = {
    "http": "endpoint",
    "mesh": "mesh",
    "node_id": "node id",
    "listen": "listens on",
    "nat": "nat",
    "port_mapping": "router",
    "home": "home",
}


def _status_value(key: str, value: Any) -> str:
    if key == "http" and value:
        return f"{printable(value)}/v1"
    if key == "mesh":
        return f"{printable(value['name'])} ({str(value['id'])[:SHORT_ID_CHARS]})" if value else "none yet"
    if key == "nat":
        return nat_text(value) if value else ""
    if key == "port_mapping":
        return port_mapping_text(value) if value else ""
    if key.endswith("_bytes") and isinstance(value, int | float):
        return size_text(value)
    if key.endswith("_s") and isinstance(value, int | float):
        return time_text(value)
    if isinstance(value, list | tuple):
        return ", ".join(printable(item) for item in value)
    return "" if value is None else printable(value)


def nat_text(nat: Mapping[str, Any]) -> str:
    """Writes what a node knows of its NAT, nothing where it knows nothing."""
    mapping, filtering = str(nat.get("mapping")), str(nat.get("filtering"))
    words = [_MAPPINGS.get(mapping, ""), _FILTERINGS.get(filtering, "")]
    seen = ", ".join(printable(address) for address in nat.get("public") or ())
    return "; ".join(word for word in [*words, f"seen at {seen}" if seen else ""] if word)


def port_mapping_text(mapping: Mapping[str, Any]) -> str:
    """Writes what the router lets in, or why nothing."""
    reason = printable(mapping.get("reason") or "")
    if not mapping.get("external"):
        return f"maps no port: {reason}" if reason else ""
    what = "UDP and TCP" if mapping.get("tcp") else "UDP"
    how, where = printable(mapping.get("how") or ""), printable(mapping["external"])
    words = f"lets in {what} at {where} ({how}, for {time_text(mapping.get('lifetime_s') or 0)})"
    return f"{words}; others are not told: {reason}" if reason else words


_MAPPINGS = {
    "none": "none",
    "endpoint": "one port for all destinations",
    "address": "another port for each address",
    "port": "another port for each destination",
}
_FILTERINGS = {
    "endpoint": "lets in everybody",
    "address": "lets in addresses that were sent to",
    "port": "lets in whom was sent to",
}


def route_rows(candidates: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of the table of a dry run; an arrow marks the chosen one, a number the ones after it."""
    rows, next_rank = [], 2
    for candidate in candidates:
        verdict, mark = candidate.get("verdict"), ""
        if verdict == "chosen":
            mark = "->"
        elif verdict == "fallback":
            mark, next_rank = str(next_rank), next_rank + 1
        similarity = candidate.get("similarity")
        rows.append(
            [
                mark,
                str(candidate["model"]),
                str(candidate["node_name"]),
                str(candidate.get("path") or "-"),
                rtt_text(candidate.get("rtt_ms")),
                "-" if similarity is None else f"{similarity:.2f}",
                str(candidate.get("load", "-")),
                str(candidate.get("reason") or ""),
            ]
        )
    return rows
