"""Bytes that two files have in common, stored once where the file system can.

On Linux with btrfs or XFS (made with `reflink=1`, the default) blocks are shared between files until one of them is
written. Only whole blocks can be, so the ends of a range that starts within a block are copied. Everywhere else the
system copies, within the kernel where it can. btrfs gives room back by extent, not by block: what was written in one go
stays as long as any part of it is used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from atmo.storage import files

_CLONE_RANGE = 0x4020940D
"""FICLONERANGE. Source: `linux/fs.h`, `_IOW(0x94, 13, struct file_clone_range)`."""

_CLONE_ARGUMENT = struct.Struct("=qQQQ")
"""`struct file_clone_range`: source descriptor, source offset, length, target offset."""

_DEDUPE_RANGE = 0xC0189436
"""FIDEDUPERANGE. Source: `linux/fs.h`, `_IOWR(0x94, 54, struct file_dedupe_range)`."""

_DEDUPE_ARGUMENT = struct.Struct("=QQHHIqQQiI")
"""`struct file_dedupe_range` with one `file_dedupe_range_info`."""

_DEDUPE_MOST = 16 * 1024 * 1024
"""More than that in one call is cut by btrfs. Source: ioctl_fideduperange(2)."""

_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
"""What copy_file_range says where the two files, or this system, do not allow it."""

_CANNOT_SHARE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)
"""What sharing says where the file system has no such thing."""

_BUFFER_BYTES = 1024 * 1024


def put_range(source: int, at: int, target: int, to: int, size: int) -> int:
    """Puts `size` bytes of one file into another: shared where possible, else copied.

    Whoever must rely on the bytes reads them from the target afterwards and verifies them there.

    Args:
        source: Descriptor to read from.
        at: Offset in the source.
        target: Descriptor to write to; long enough already.
        to: Offset in the target.
        size: In bytes.

    Returns:
        How many bytes are shared.

    Raises:
        OSError: The disk fails or is full, or the source ended early (`EIO`).
    """
    head, shared = _whole_blocks(target, at, to, size)
    if not shared or not _clone(source, at + head, target, to + head, shared):
        _copy(source, at, target, to, size)
        return 0
    tail = head + shared
    _copy(source, at, target, to, head)
    _copy(source, at + tail, target, to + tail, size - tail)
    return shared


def merge_range(source: int, at: int, target: int, to: int, size: int) -> int | None:
    """Lets two files that have the same bytes share their blocks; the kernel compares the bytes before.

    Args:
        source: Descriptor of the file whose blocks stay.
        at: Offset in the source.
        target: Descriptor, writable, of the file whose blocks are given up.
        to: Offset in the target.
        size: In bytes.

    Returns:
        How many bytes are shared now, None where this file system cannot.
    """
    head, left = _whole_blocks(target, at, to, size)
    if left and at + size == os.fstat(source).st_size and to + size == os.fstat(target).st_size:
        left = size - head  # the last block of two files may be shared though it is not full
    at, to, done = at + head, to + head, 0
    while left:
        wanted = min(left, _DEDUPE_MOST)
        argument = bytearray(_DEDUPE_ARGUMENT.pack(at + done, wanted, 1, 0, 0, target, to + done, 0, 0, 0))
        try:
            fcntl.ioctl(source, _DEDUPE_RANGE, argument)
        except OSError as error:
            return None if error.errno in _CANNOT_SHARE else done
        *_, merged, status, _ = _DEDUPE_ARGUMENT.unpack(argument)
        if status or not merged:  # below 0 an error such as another file system, 1 where the bytes differ
            break
        done += merged
        left -= merged
    return done


def _whole_blocks(target: int, at: int, to: int, size: int) -> tuple[int, int]:
    """Returns how far into a range its first whole block begins, and how many bytes of whole blocks there are."""
    block = os.fstatvfs(target).f_bsize
    if (at - to) % block:
        return 0, 0
    head = -at % block
    return head, max(0, (size - head) // block * block)


def _clone(source: int, at: int, target: int, to: int, size: int) -> bool:
    try:
        fcntl.ioctl(target, _CLONE_RANGE, _CLONE_ARGUMENT.pack(source, at, size, to))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        return False
    return True


def _copy(source: int, at: int, target: int, to: int, size: int) -> None:
    done = 0
    try:
        while done < size and hasattr(os, "copy_file_range"):
            copied = os.copy_file_range(source, target, size - done, at + done, to + done)
            if not copied:
                break
            done += copied
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
    while done < size:
        data = memoryview(os.pread(source, min(size - done, _BUFFER_BYTES), at + done))
        if not data:
            raise OSError(errno.EIO, "the file ends before the range to copy does")
        files.write_at(target, data, to + done)
        done += len(data)
