"""What anti-entropy says of single slots: pages of listings, batches of records, and the checks of both.

A slot is called by its name, nine bytes. Two slots share one by chance in none of all meshes, but an author who tries
2^60 keys finds one whose slot is called as another's of the same first byte. So all versions of a name count: where one
end has another set of them than the other, it gets all that are called so. Only where each end has one of the two slots
alone, and both in the same version, do they take them for one, until either hears of the other slot or of a newer
version elsewhere; broadcast brings both to everyone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from atmo.errors import WireError
from atmo.gossip.entry import Entry
from atmo.gossip.fingerprints import LEVELS
from atmo.gossip.messages import (
    FINGERPRINT_BYTES,
    LISTED_BYTES,
    NAME_BYTES,
    PART_BYTES,
    SALT_BYTES,
    Digest,
    Listing,
    Want,
)
from atmo.gossip.table import RecordTable
from atmo.trust.records import LASTING

Version = tuple[int, int]
"""Epoch and sequence."""

ENTRY_BYTES = NAME_BYTES + 2 * 9
"""Of an entry of a listing at most; about 16 in most."""

RANGE_BYTES = 48
"""Of a Range."""

BRANCH_BYTES = 160
"""Of a Branch."""

NAMES_MOST = LISTED_BYTES // NAME_BYTES
"""Names in one message."""

LOOK_BYTES = 4
"""What looking at a slot of the table counts, as if it were so many bytes sent."""

_RECORDS_IN_MESSAGE = 64
_DIGITS = frozenset("0123456789abcdef")
_NUMBER_BYTES = 9  # of 7 bits: an integer is less than 2^63


def version_of(entry: Entry) -> Version:
    """Returns the version that counts: of a slot whose first record is final, any is as good as another."""
    return (0, 0) if entry.record.kind in LASTING else entry.record.version


# --- packing ----------------------------------------------------------------------------------------------------------


def _pack_number(number: int) -> bytes:
    """Returns an integer in groups of 7 bits, the lowest first, all but the last with the eighth bit set (LEB128)."""
    packed = bytearray()
    while number > 0x7F:
        packed.append(0x80 | number & 0x7F)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _number_untrusted(data: bytes, at: int) -> tuple[int, int]:
    """Reads an integer; returns it and where the next begins.

    Raises:
        WireError: It has no end, or is not in its shortest form.
    """
    number = 0
    for place, byte in enumerate(data[at : at + _NUMBER_BYTES]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if not byte and place:
                break
            return number, at + place + 1
    raise WireError("a number of a listing is not in its shortest form")


def _pack_entry(name: bytes, version: Version) -> bytes:
    return name + _pack_number(version[0]) + _pack_number(version[1])


def entries_untrusted(packed: bytes) -> list[tuple[bytes, Version]]:
    """Returns the names and versions in a listing, in their order.

    Raises:
        WireError: They do not decode.
    """
    entries = []
    at = 0
    while at < len(packed):
        name = packed[at : at + NAME_BYTES]
        epoch, at = _number_untrusted(packed, at + NAME_BYTES)
        sequence, at = _number_untrusted(packed, at)
        entries.append((name, (epoch, sequence)))
    return entries


def split_names(names: bytes) -> list[bytes]:
    """Returns the single names of a `Want`."""
    return [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]


def pages(prefixes: Sequence[str], entries: Iterable[Entry], most_bytes: int) -> Iterator[Listing]:
    """Yields the pages that list `entries`, all there are in these ranges; at least one page.

    Args:
        prefixes: Of the ranges; none where the entries are only what the receiver lacks.
        entries: In any order.
        most_bytes: Of entries in one page, and at least a kibibyte below the limit of a message.
    """
    told = tuple(prefixes)
    page: list[bytes] = []
    after, last, size = b"", b"", 0
    for name, version in sorted({(entry.name, version_of(entry)) for entry in entries}):
        if size + ENTRY_BYTES > most_bytes and name != last:
            yield Listing(told, b"".join(page), after, more=True)
            page, after, size = [], last, 0
        page.append(_pack_entry(name, version))
        last = name
        size += len(page[-1])
    yield Listing(told, b"".join(page), after)


def batches(envelopes: Sequence[bytes], most_bytes: int) -> Iterator[tuple[bytes, ...]]:
    """Cuts envelopes into as many as fit a message."""
    batch: list[bytes] = []
    size = 0
    for envelope in envelopes:
        if batch and (size + len(envelope) > most_bytes or len(batch) == _RECORDS_IN_MESSAGE):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(envelope)
        size += len(envelope)
    if batch:
        yield tuple(batch)


# --- comparing --------------------------------------------------------------------------------------------------------


def compare_untrusted(table: RecordTable, listing: Listing, wall: float) -> tuple[dict[bytes, Version], list[Entry]]:
    """Holds a listing against the table.

    Returns:
        The names of slots that the table lacks or has older, with the newest listed versions; and the entries that the
        listing lacks or has older and that had not expired by `wall`.
    """
    theirs: dict[bytes, list[Version]] = {}
    for name, version in entries_untrusted(listing.entries):
        theirs.setdefault(name, []).append(version)
    until = next(reversed(theirs)) if listing.more else b""
    mine = _by_name(table, theirs, listing.prefixes)
    lacked = {}
    for name, versions in theirs.items():
        if _exceeds(versions, _versions(mine.get(name, ()))):
            lacked[name] = versions[-1]
    told: list[Entry] = []
    if listing.prefixes:
        for name, entries in mine.items():
            covered = listing.after < name and (not until or name <= until)
            if covered and _exceeds(_versions(entries), theirs.get(name, ())):
                told += [entry for entry in entries if entry.expires_s >= wall]
    return lacked, told


def _by_name(table: RecordTable, names: Collection[bytes], prefixes: Collection[str]) -> dict[bytes, list[Entry]]:
    """Returns the entries of these ranges; where there are none, those of these names."""
    ranges = [entry for prefix in prefixes for entry in table.within(prefix)]
    rows: dict[bytes, list[Entry]] = {}
    for entry in ranges if prefixes else named(table, names):
        rows.setdefault(entry.name, []).append(entry)
    return rows


def _versions(entries: Iterable[Entry]) -> list[Version]:
    return [version_of(entry) for entry in entries]


def _exceeds(versions: Sequence[Version], others: Sequence[Version]) -> bool:
    """Says whether one end has something of a name that the other has not."""
    if len(versions) == len(others) == 1:
        return versions[0] > others[0]
    return not set(versions) <= set(others)


def named(table: RecordTable, names: Collection[bytes]) -> list[Entry]:
    """Returns the entries of slots with these names, near ones left out."""
    wanted = frozenset(names)
    leaves = dict.fromkeys(f"{name[0]:02x}" for name in names)
    return [entry for leaf in leaves for entry in table.within(leaf) if entry.name in wanted]


def scanned(table: RecordTable, prefixes: Iterable[str], names: Iterable[bytes]) -> int:
    """Returns how many slots are looked at to find those of these ranges and names."""
    leaves = dict.fromkeys(f"{name[0]:02x}" for name in names)
    return sum(table.fingerprints.count(prefix) for prefix in (*prefixes, *leaves))


# --- faults -----------------------------------------------------------------------------------------------------------


def fault_untrusted(message: Digest | Listing | Want) -> str:
    """Says what no honest node would send of a message; empty where there is nothing."""
    match message:
        case Digest():
            prefixes = (*(part.prefix for part in message.ranges), *(part.prefix for part in message.branches or ()))
            return _prefixes_fault(prefixes) or _overlap_fault(prefixes) or _sizes_fault(message)
        case Want(names, prefixes):
            return _prefixes_fault(prefixes) or ("a name is cut" if len(names) % NAME_BYTES else "")
        case _:
            return _prefixes_fault(message.prefixes) or _overlap_fault(message.prefixes) or _entries_fault(message)


def _prefixes_fault(prefixes: Iterable[str]) -> str:
    return "" if all(_DIGITS.issuperset(prefix) for prefix in prefixes) else "a prefix is not of hexadecimal digits"


def _overlap_fault(prefixes: Iterable[str]) -> str:
    ordered = sorted(prefixes)
    overlap = any(second.startswith(first) for first, second in pairwise(ordered))
    return "ranges of one message overlap" if overlap else ""


def _sizes_fault(digest: Digest) -> str:
    sizes = (
        (len(digest.salt), SALT_BYTES),
        *((len(part.fingerprint), FINGERPRINT_BYTES) for part in digest.ranges),
        *((len(branch.parts), 16 * PART_BYTES) for branch in digest.branches or ()),
    )
    return "" if all(size == right for size, right in sizes) else "a salt or a fingerprint is cut"


def _entries_fault(page: Listing) -> str:
    try:
        entries = entries_untrusted(page.entries)
    except WireError as error:
        return str(error)
    if any(first >= second for first, second in pairwise(entries)) or (entries and entries[0][0] <= page.after):
        return "a listing is out of order"
    if page.prefixes and not _leaves(page.prefixes).issuperset(name[0] for name, _ in entries):
        return "a listing leaves its ranges"
    return "a page without entries is not the last one" if page.more and not entries else ""


def _leaves(prefixes: Iterable[str]) -> frozenset[int]:
    """Returns the first bytes of all names in these ranges."""
    firsts = ((prefix[:LEVELS].ljust(LEVELS, "0"), LEVELS - len(prefix)) for prefix in prefixes)
    return frozenset(int(first, 16) + more for first, digits in firsts for more in range(16 ** max(0, digits)))


def is_known(prefix: str) -> bool:
    """Says whether this version cuts as finely; a newer one may cut further."""
    return len(prefix) <= LEVELS
