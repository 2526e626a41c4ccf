"""Every size limit of the protocol, in one place.

Source: design of the protocol (docs/PROTOCOL.md); where no other source is given the value is a choice with margin.
"""

MESSAGE_BYTES = 64 * 1024
"""One engine message or one signed record."""

FRAME_BYTES = 1024 * 1024
"""One frame on a stream."""

DEPTH = 32
"""Nesting of arrays and maps in one CBOR value: a tool's JSON schema in a chat request is easily 15 deep."""

ITEMS = 16_384
"""Elements over all arrays and maps of one CBOR value."""

MANIFEST_ITEMS = 65_536
"""The same of a manifest, the largest value there is: one with all that its fields admit has about half of that."""

ANSWER_ITEMS = 64
"""The same of one frame of an answer to `atmo/execute/1`."""

ADDRESSES = 16
"""Addresses in one node record or join code."""

CERTIFICATE_BYTES = 2_048
"""One sealed certificate."""

NAME_CHARS = 128
"""Names of nodes, meshes, models, capabilities."""

TEXT_CHARS = 4_096
"""Descriptions and other free text."""

CHUNK_BYTES = 4 * 1024 * 1024
"""One chunk of a model; 1 MiB is what we write, 4 MiB is what we accept."""

MANIFEST_BYTES = 64 * 1024 * 1024
"""One model manifest: enough for the chunk list of a model of about 2 TiB."""

REQUEST_BYTES = 32 * 1024 * 1024
"""The body of one request, from a client or from a peer."""

RECORDS_PER_AUTHOR = 512
"""State records that one author may keep alive in our table."""

AUTHORS = 20_000
"""Authors whose records we keep."""
