"""Signs the manifest of a model that is here with another key; the files stay as they are."""

from __future__ import annotations

from atmo.errors import UserError
from atmo.identity import Signer
from atmo.storage.chunks import ModelStorage
from atmo.storage.registry import LocalModel
from atmo.transfer.manifest import manifest_id, seal_manifest
from atmo.transfer.names import version_key


def reseal(storage: ModelStorage, signer: Signer, name: str, version: str) -> LocalModel:
    """Makes `signer` the publisher of a model, all of it or, when it is cut, nothing; blocks on the disk.

    Raises:
        UserError: There is no such model, or the disk fails.
    """
    with storage.lock:
        model = _find(storage, name, version)
        sealed = seal_manifest(signer, model.manifest)
        identity = manifest_id(sealed)
        key = version_key(version)
        with storage.decisions.database.transaction() as run:
            run.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (identity, sealed))
            run.execute("UPDATE models SET manifest = ? WHERE name = ? AND version_key = ?", (identity, name, key))
            run.execute("DELETE FROM manifests WHERE id NOT IN (SELECT manifest FROM models)")
        return _find(storage, name, version)


def _find(storage: ModelStorage, name: str, version: str) -> LocalModel:
    wanted = (name, version_key(version))
    for model in storage.models():
        if (model.name, version_key(model.version)) == wanted:
            return model
    raise UserError(f"There is no model {name} {version} here.", "See `atmo model list`.")
