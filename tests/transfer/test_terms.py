"""Access and lineage in manifests: what may stand there, and how a person writes it."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.errors import WireError
from atmo.transfer.document import fields_from_document_untrusted, to_document
from atmo.transfer.manifest import open_manifest_untrusted, seal_manifest
from atmo.transfer.terms import Access, Base
from tests.transfer.samples import SIGNER, manifest_of

ACCESS = Access(("edge", "admin"), ("admin",), ("admin", "gateway"))
BASE = Base("base", "1.0", b"m" * 32)


def test_who_may_do_what() -> None:
    assert Access().may_read(())
    assert Access().may_write(())
    assert ACCESS.may_read({"edge"})
    assert not ACCESS.may_read({"gateway"})
    assert ACCESS.may_write({"admin"})
    assert not ACCESS.may_write(("edge",))


def test_both_travel_in_the_manifest() -> None:
    sealed = seal_manifest(SIGNER, manifest_of(access=ACCESS, base=BASE))
    manifest, _ = open_manifest_untrusted(sealed)
    assert (manifest.access, manifest.base) == (ACCESS, BASE)
    assert manifest_of().access == Access()
    assert manifest_of().base is None


def test_both_are_written_and_read_as_yaml() -> None:
    document = to_document(manifest_of(access=ACCESS, base=BASE))
    assert document["access"] == {"read": ["edge", "admin"], "write": ["admin"], "deploy": ["admin", "gateway"]}
    assert document["base"] == {"name": "base", "version": "1.0", "manifest": (b"m" * 32).hex()}
    fields = fields_from_document_untrusted(document)
    assert (fields["access"], fields["base"]) == (ACCESS, BASE)
    short = to_document(manifest_of(base=Base("base", "2.0")))["base"]
    assert short == {"name": "base", "version": "2.0"}
    assert fields_from_document_untrusted({"base": {"name": "base", "version": 2.0}})["base"] == Base("base", "2.0")
    assert to_document(manifest_of())["base"] is None
    assert fields_from_document_untrusted({"publish": False})["publish"] is False


@pytest.mark.parametrize(
    "document",
    [
        {"publish": "no"},
        {"access": []},
        {"access": {"read": "edge"}},
        {"access": {"read": ["Not A Role"]}},
        {"access": {"write": ["edge"] * 17}},
        {"base": {"name": "base"}},
        {"base": {"name": "a b", "version": "1"}},
        {"base": {"name": "base", "version": "one"}},
        {"base": {"name": "base", "version": "1", "manifest": "00"}},
        {"base": {"name": "base", "version": "1", "manifest": 7}},
    ],
)
def test_what_is_neither_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        fields_from_document_untrusted(document)


@pytest.mark.parametrize("version", ["1.0.0.0-x y", "V1"])
def test_the_version_of_the_base_is_in_normal_form(version: str) -> None:
    with pytest.raises(ValueError, match="version"):
        Base("base", version)


def test_the_manifest_of_the_base_has_a_whole_name() -> None:
    with pytest.raises(ValueError, match="not 32"):
        Base("base", "1.0", b"short")
