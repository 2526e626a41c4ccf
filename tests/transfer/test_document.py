from __future__ import annotations

from typing import Any

import pytest
import yaml

from atmo.errors import WireError
from atmo.transfer.document import fields_from_document_untrusted, to_document
from atmo.transfer.manifest import Deployment, NodeRequirements
from tests.transfer.samples import SIGNER, manifest_of
from tests.transfer.test_manifest import FULL

SEED_000 = """
name: network-anomaly-detector
version: 1.0.0
type: anomaly_detector
trained_on: 2026-02-02T15:30:00Z
training_data_domain: network-traffic
training_node: central-01
file: model.joblib
format: sklearn
size_bytes: 12345678
checksum_sha256: {checksum}
requirements:
  - scikit-learn>=1.0
  - numpy>=1.20
  - joblib>=1.0
capabilities:
  - anomaly_detection
  - network_monitoring
config:
  contamination: 0.1
  threshold: -0.5
  feature_columns:
    - bytes_in
    - bytes_out
    - latency_ms
node_requirements:
  min_memory_mb: 512
  min_cpu_cores: 1
  gpu_required: false
  architectures:
    - x86_64
    - arm64
deployment:
  priority: normal
  replicas: 0
  regions: []
  roles:
    - edge
    - gateway
""".format(checksum="ab" * 32)


def test_the_seeds_own_document_is_understood() -> None:
    assert fields_from_document_untrusted(yaml.safe_load(SEED_000)) == {
        "name": "network-anomaly-detector",
        "version": "1.0.0",
        "type": "anomaly_detector",
        "trained_on": "2026-02-02T15:30:00Z",
        "training_data_domain": "network-traffic",
        "training_node": "central-01",
        "file": "model.joblib",
        "format": "sklearn",
        "size_bytes": 12345678,
        "checksum_sha256": b"\xab" * 32,
        "requirements": ("scikit-learn>=1.0", "numpy>=1.20", "joblib>=1.0"),
        "capabilities": ("anomaly_detection", "network_monitoring"),
        "config": {"contamination": 0.1, "threshold": -0.5, "feature_columns": ["bytes_in", "bytes_out", "latency_ms"]},
        "node_requirements": NodeRequirements(512, 1, False, ("x86_64", "arm64")),
        "deployment": Deployment("normal", 0, (), ("edge", "gateway")),
    }


def test_a_manifest_survives_the_way_through_yaml() -> None:
    document = to_document(FULL, SIGNER.node_id)
    assert document["publisher"] == str(SIGNER.node_id)
    assert "publisher" not in to_document(FULL)
    fields = fields_from_document_untrusted(yaml.safe_load(yaml.safe_dump(document)))
    assert manifest_of(**fields) == FULL
    names = list(yaml.safe_load(SEED_000))
    assert [name for name in document if name in names] == names


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-02-02T15:30:00", "2026-02-02T15:30:00Z"),
        ("2026-02-02T15:30:00+02:00", "2026-02-02T13:30:00Z"),
        ("2026-02-02", "2026-02-02"),
        ("'2026-02-02T15:30:00Z'", "2026-02-02T15:30:00Z"),
    ],
)
def test_times_as_yaml_reads_them(written: str, read: str) -> None:
    assert fields_from_document_untrusted(yaml.safe_load(f"trained_on: {written}")) == {"trained_on": read}


def test_a_version_that_yaml_reads_as_a_number() -> None:
    assert fields_from_document_untrusted({"version": 1.5}) == {"version": "1.5"}
    assert fields_from_document_untrusted({"version": 2, "unknown": 1, "name": None}) == {"version": "2"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 7),
        ("version", "new"),
        ("version", True),
        ("trained_on", 7),
        ("size_bytes", -1),
        ("size_bytes", "12"),
        ("checksum_sha256", "xyz"),
        ("checksum_sha256", "ab"),
        ("checksum_sha256", 7),
        ("requirements", "numpy"),
        ("requirements", [7]),
        ("config", [1]),
        ("node_requirements", {"min_memory_mb": "much"}),
        ("deployment", {"priority": "soon"}),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(WireError, match=field):
        fields_from_document_untrusted({field: value})


def test_a_document_is_a_map() -> None:
    with pytest.raises(WireError, match="map"):
        fields_from_document_untrusted(["name"])
