"""Settings from the file, the environment and the flags, and what they say when they are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atmo.config import (
    HostPort,
    ProjectSettings,
    ServerSettings,
    Settings,
    load_settings,
    parse_host_port,
    resolve_home,
)
from atmo.config.files import FILE_NAMES, MAX_FILE_BYTES
from atmo.errors import UserError
from atmo.relay.address import RelayAddress

RELAY = RelayAddress.parse_untrusted("wss://relay.example.org/")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes the configuration, as JSON or as given text."""

    def run(value: Any = None, *, name: str = "config.json", text: str | None = None) -> Path:
        (tmp_path / name).write_text(json.dumps(value) if text is None else text, encoding="utf-8")
        return tmp_path

    return run


def error_of(home: Path, environ: dict[str, str] | None = None, **flags: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        load_settings(home, environ or {}, flags)
    return caught.value


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "nowhere", {})
    assert settings == Settings(name=settings.name)
    assert settings.name
    assert str(settings.http) == "127.0.0.1:11451"
    assert str(settings.listen) == "[::]:11450"
    assert settings.ollama_url == "http://127.0.0.1:11434"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"name": "kitchen", "http": ":1", "servers": [{"name": "a", "url": "http://h/v1/"}]}'),
        ("config.yaml", "name: kitchen\nhttp: ':1'\nservers:\n- {name: a, url: http://h/v1}\n"),
        ("config.yml", "name: kitchen\nhttp: ':1'\nservers: [{name: a, url: http://h/v1}]\n"),
        ("config.toml", 'name = "kitchen"\nhttp = ":1"\n[[servers]]\nname = "a"\nurl = "http://h/v1"\n'),
    ],
)
def test_every_format(write: Write, name: str, text: str) -> None:
    settings = load_settings(write(name=name, text=text), {})
    assert settings.name == "kitchen"
    assert settings.http == HostPort("127.0.0.1", 1)
    assert settings.servers == (ServerSettings("a", "http://h/v1"),)


@pytest.mark.parametrize("name", FILE_NAMES)
def test_an_empty_file_means_the_defaults(write: Write, name: str) -> None:
    assert load_settings(write(name=name, text="\n"), {}).log_level == "info"


def test_every_key(write: Write, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    home = write(
        {
            "name": " küche ",
            "http": "[::1]:0",
            "listen": ":2",
            "ollama": False,
            "log_level": "Debug",
            "servers": [
                {
                    "name": "cloud",
                    "url": "https://api.example.org/v1",
                    "key_env": "KEY",
                    "price": 2,
                    "allow": ["big-*"],
                    "hide": ["big-secret"],
                },
                {"name": "lab", "url": "http://lab:8000/v1", "key_file": "lab.key"},
            ],
            "projects": [{"name": "notes", "path": "notes", "description": "My notes"}],
            "relays": ["wss://relay.example.org/", "ws://192.168.1.10:11452"],
            "stun": ["stun.example.org:3478", "[2001:DB8::1]:3478", "stun.example.org:3478"],
        }
    )
    assert load_settings(home, {}) == Settings(
        name="küche",
        http=HostPort("::1", 0),
        listen=HostPort("::", 2),
        ollama_url=None,
        servers=(
            ServerSettings("cloud", "https://api.example.org/v1", "KEY", "", 2.0, ("big-*",), ("big-secret",)),
            ServerSettings("lab", "http://lab:8000/v1", key_file=str(tmp_path / "lab.key")),
        ),
        projects=(ProjectSettings("notes", tmp_path / "notes", "My notes"),),
        relays=(RELAY, RelayAddress.parse_untrusted("ws://192.168.1.10:11452")),
        stun=(HostPort("stun.example.org", 3478), HostPort("2001:db8::1", 3478)),
        log_level="debug",
    )


def test_environment_over_file_and_flags_over_both(write: Write) -> None:
    home = write({"name": "file", "http": ":1", "listen": ":1"})
    environ = {
        "ATMO_HTTP": ":2",
        "ATMO_LISTEN": ":2",
        "ATMO_NAME": "",
        "ATMO_OLLAMA_URL": "off",
        "ATMO_LOG_LEVEL": "error",
        "ATMO_RELAYS": "wss://relay.example.org  wss://relay.example.org/ ",
        "ATMO_STUN": "a:1  192.0.2.1:3478 ",
    }
    settings = load_settings(home, environ, {"http": ":3", "listen": None, "name": None})
    assert (settings.name, settings.http.port, settings.listen.port) == ("file", 3, 2)
    assert settings.ollama_url is None
    assert settings.log_level == "error"
    assert settings.relays == (RELAY,)
    assert load_settings(home, environ, {"relays": []}).relays == (RELAY,), "no flag was given"
    assert settings.stun == (HostPort("a", 1), HostPort("192.0.2.1", 3478))
    assert load_settings(home, environ, {"stun": []}).stun == settings.stun, "no flag was given"
    assert load_settings(home, environ, {"stun": ["b:2"]}).stun == (HostPort("b", 2),)
    assert load_settings(home, environ, {"relays": ["ws://a:1"]}).relays == (RelayAddress.parse_untrusted("ws://a:1"),)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://box:1/", "http://box:1"),
        (True, "http://127.0.0.1:11434"),
        ("true", "http://127.0.0.1:11434"),
        (False, None),
        ("no", None),
    ],
)
def test_ollama(write: Write, value: Any, url: str | None) -> None:
    assert load_settings(write({"ollama": value}), {}).ollama_url == url


def test_projects_of_flags_replace_those_of_the_same_name(write: Write, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    home = write({"projects": [{"name": "one", "path": "a"}, {"name": "two", "path": "b"}]})
    settings = load_settings(home, {}, {"projects": [f"one={tmp_path}/c"]})
    assert [(project.name, project.path.name) for project in settings.projects] == [("two", "b"), ("one", "c")]


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ({"htpp": ":1"}, "htpp: there is no such key", '"http"'),
        ({"zzz": 1}, "zzz: there is no such key", "Known keys: name, node_id, http"),
        ({"name": 3}, "name: is a number where a text belongs", ""),
        ({"name": "  "}, "name: is empty", ""),
        ({"name": "a\x1b[2J"}, "name: has characters that cannot be printed", ""),
        ({"name": "x" * 65}, "name: has 65 characters", ""),
        ({"http": None}, "http: is nothing where a text belongs", ""),
        ({"http": "1"}, "http: '1' has no port", "127.0.0.1:11451"),
        ({"listen": "x:99999"}, "listen: 'x:99999': the port '99999'", ""),
        ({"mode": "providr"}, "mode: 'providr' is not known", '"provider"'),
        ({"log_level": "warnin"}, "log_level: 'warnin' is not known", '"warning"'),
        ({"log_level": "loud"}, "log_level: 'loud' is not known", "debug, info"),
        ({"ollama": 5}, "ollama: is a number where a text belongs", ""),
        ({"ollama": "localhost:11434"}, "ollama: 'localhost:11434' is not an http", "http://"),
        ({"ollama": "http://[::1"}, "ollama: 'http://[::1' is not an http", ""),
        ({"ollama": "http://me:pw@box"}, "ollama: a URL may not hold a password", "key_env"),
        ({"servers": {}}, "servers: is a mapping where a list belongs", ""),
        ({"servers": [1]}, "servers[0]: is a number where a mapping belongs", ""),
        ({"servers": [{"name": "a"}]}, "servers[0]: url: is missing", ""),
        ({"servers": [{"nam": "a"}]}, "servers[0]: nam: there is no such key", '"name"'),
        ({"servers": [{"name": "a", "url": "ftp://x"}]}, "servers[0]: url: 'ftp://x' is not", ""),
        ({"servers": [{"name": "a", "url": "http://x", "price": "1"}]}, "servers[0]: price: '1' is not a price", ""),
        ({"servers": [{"name": "a", "url": "http://x", "price": True}]}, "servers[0]: price: True is not a price", ""),
        ({"servers": [{"name": "a", "url": "http://x", "price": -1}]}, "servers[0]: price: -1 is not a price", ""),
        (
            {"servers": [{"name": "a", "url": "http://x", "allow": "m"}]},
            "servers[0]: allow: is a text where a list",
            "",
        ),
        ({"servers": [{"name": "a", "url": "http://x", "hide": [1]}]}, "servers[0]: hide[0]: is a number", ""),
        (
            {"servers": [{"name": "a", "url": "http://x", "key_env": "sk-proj-x"}]},
            "servers[0]: key_env: is not the name of an environment variable.",
            "key_file",
        ),
        ({"ollama": "http://box?key=abc"}, "ollama: it is not an http or https URL", ""),
        (
            {"servers": [{"name": "a", "url": "http://x", "key_env": "A", "key_file": "b"}]},
            "servers[0]: has both key_env and key_file",
            "",
        ),
        (
            {"servers": [{"name": "a", "url": "http://x", "key_file": "~nobody-here/k"}]},
            "servers[0]: key_file: ~nobody-here/k: there is no such user",
            "",
        ),
        ({"servers": [{"name": "a", "url": "http://x"}] * 2}, "servers: the name 'a' is there twice", "own name"),
        ({"servers": [{}] * 65}, "servers: has 65 entries", ""),
        ({"projects": [{"name": "a b", "path": "."}]}, "projects[0]: name: 'a b' is not a name", "letters"),
        ({"projects": [{"name": "a", "path": "gone"}]}, "gone does not exist", "folder"),
        ({"projects": [{"name": "a", "path": "config.json"}]}, "config.json is not a folder", ""),
        ({"projects": [{"name": "a", "path": "."}] * 2}, "projects: the name 'a' is there twice", ""),
        ({"relays": {}}, "relays: is a mapping where a list of URLs", ""),
        ({"relays": ["https://x"]}, "relays: 'https://x' is not a URL such as", "atmo relay"),
        ({"relays": [f"ws://r{number}:1" for number in range(17)]}, "relays: has 17 relays", ""),
        ({"stun": {}}, "stun: is a mapping where a list of HOST:PORT", ""),
        ({"stun": [1]}, "stun: is a list where a list of HOST:PORT", ""),
        ({"stun": ["stun.example.org"]}, "stun: 'stun.example.org' has no port", "stun.example.org:3478"),
        ({"stun": [":3478"]}, "stun: ':3478' is no server", "stun.example.org:3478"),
        ({"stun": ["a:0"]}, "stun: 'a:0' is no server", "3478"),
        ({"stun": [f"s{number}:1" for number in range(17)]}, "stun: has 17 STUN servers; at most 16", ""),
        ([1], "is not a mapping of keys to values", "kitchen"),
    ],
)
def test_errors_name_file_key_and_reason(write: Write, config: Any, message: str, hint: str) -> None:
    home = write(config)
    error = error_of(home)
    assert error.message.startswith(str(home / "config.json"))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"name": }', "config.json:1:10: is not valid JSON"),
        ("config.json", '{"name": "a", "name": "b"}', "name: is there twice"),
        ("config.json", "[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ("config.json", '{"price": ' + "9" * 5_000 + "}", "is not valid JSON"),
        ("config.yaml", "name: [", "config.yaml:1:8: is not valid YAML"),
        ("config.yaml", "name: !!python/object:os.system x", "is not valid YAML"),
        ("config.yaml", "name: \x00", "is not valid YAML"),
        ("config.yaml", "1: 2", "config.yaml: 1: is not a name"),
        ("config.toml", "name = ", "is not valid TOML"),
        ("config.json", " " * (MAX_FILE_BYTES + 1), f"at most {MAX_FILE_BYTES}"),
    ],
)
def test_files_that_do_not_parse(write: Write, name: str, text: str, message: str) -> None:
    assert message in error_of(write(name=name, text=text)).message


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"name": "\xff"}')
    assert "is not UTF-8 text (byte 10)" in error_of(tmp_path).message


def test_two_files_are_one_too_many(write: Write) -> None:
    write({})
    assert "config.json, config.toml" in error_of(write(name="config.toml", text="")).message


def test_errors_name_the_variable_and_the_flag(tmp_path: Path) -> None:
    assert error_of(tmp_path, {"ATMO_HTTP": "x"}).message.startswith("ATMO_HTTP: 'x' has no port")
    assert error_of(tmp_path, {"ATMO_OLLAMA_URL": "x"}).message.startswith("ATMO_OLLAMA_URL: 'x' is not")
    assert error_of(tmp_path, {}, listen="a:b").message.startswith("--listen: 'a:b': the port 'b'")
    assert error_of(tmp_path, {}, relays=["x"]).message.startswith("--relay: 'x' is ")
    assert error_of(tmp_path, {}, stun=["x"]).message.startswith("--stun: 'x' has no port")
    assert error_of(tmp_path, {}, projects=["x"]).message == "--project: 'x' is not NAME=DIR."
    assert error_of(tmp_path, {}, projects=["x=/gone/away"]).message.startswith("--project: /gone/away does not")
    twice = error_of(tmp_path, {}, projects=[f"x={tmp_path}", f"x={tmp_path}"])
    assert twice.message == "--project: the name 'x' is there twice."


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:11451", "127.0.0.1", 11451),
        (":80", "10.0.0.1", 80),
        ("[::1]:1", "::1", 1),
        ("[0:0::1]:65535", "::1", 65535),
        ("localhost:0", "localhost", 0),
        ("box.example.org:7", "box.example.org", 7),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    assert parse_host_port(text, "10.0.0.1") == (host, port)


def test_endpoints_print_as_they_are_written() -> None:
    assert str(HostPort("::1", 5)) == "[::1]:5"
    assert [HostPort(host, 1).loopback for host in ("::1", "localhost", "127.9.9.9", "0.0.0.0", "box")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "a",
        "a:",
        "a:x",
        "a:-1",
        "a:65536",
        "a:１",
        "::1:5",
        "[::1]",
        "[zz]:1",
        "[]:1",
        "1.2.3:4",
        "1.2.3.256:4",
        "a b:1",
        "-:1",
    ],
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        parse_host_port(text)


def test_an_ipv6_address_without_brackets_gets_the_right_hint() -> None:
    with pytest.raises(UserError, match=r"\[::1\]:11451"):
        parse_host_port("fe80::1:11451")


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.chdir(tmp_path)
    assert resolve_home(None, {}) == Path("/home/x/.atmosphere")
    assert resolve_home(None, {"ATMO_HOME": "~/h"}) == Path("/home/x/h")
    assert resolve_home(Path("rel"), {"ATMO_HOME": "~/h"}) == tmp_path / "rel"
    with pytest.raises(UserError, match="no such user"):
        resolve_home(Path("~nobody-here/x"), {})


@pytest.mark.parametrize("key", ["lan", "port_mapping"])
@pytest.mark.parametrize(("text", "on"), [("0", False), ("off", False), ("No", False), ("1", True), ("true", True)])
def test_switches_are_set_by_file_environment_or_flag(write: Write, key: str, text: str, on: bool) -> None:
    assert getattr(load_settings(write({}), {}), key) is True
    home, variable = write({key: False}), f"ATMO_{key.upper()}"
    assert getattr(load_settings(home, {}), key) is False
    assert getattr(load_settings(home, {variable: text}), key) is on
    assert getattr(load_settings(home, {variable: text}, {key: not on}), key) is not on
    assert getattr(load_settings(home, {variable: text}, {key: None}), key) is on
    assert error_of(home, {variable: "maybe"}).message == f"{variable}: 'maybe' is neither true nor false."
    assert f"{key}: is a number where a text belongs" in error_of(write({key: 1})).message
