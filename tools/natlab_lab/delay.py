"""A public wire in user space: each machine's end is a TUN device, and one process passes packets on between them after
half of the round trip, or loses them. This kernel has no `netem`, and containers rarely do.

As a program: `python delay.py FD`, where `FD` is a Unix socket on which the devices' descriptors come. It ends when the
other end of that socket is closed, so also when whoever started it is killed.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_PACKET = 65_536
_WAITING = 20_000
"""Packets on their way, at most; more are lost, as a full queue of a router loses them. Source: guess: 30 MB."""
_AT_ONCE = 64


class Wire:
    """The wire as whoever makes the lab sees it.

    Args:
        delay_ms: Round trip between any two machines.
        loss: Share of packets that are lost.
    """

    def __init__(self, delay_ms: float, loss: float) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        self._socket.send(json.dumps({"one_way_s": delay_ms / 2_000, "loss": loss}).encode())

    def plug(self, namespace: str, device: str) -> None:
        """Adds a machine's end, a device in its namespace."""
        made: list[int] = []
        thread = threading.Thread(target=_make, args=(namespace, device, made))
        thread.start()
        thread.join()
        if not made:
            raise RuntimeError(f"no TUN device in {namespace}: is /dev/net/tun there?")
        socket.send_fds(self._socket, [b"+"], made)
        os.close(made[0])

    def close(self) -> None:
        """Ends it; the devices go."""
        self._socket.close()
        self._process.wait()


def _make(namespace: str, device: str, made: list[int]) -> None:
    from natlab_lab.inside import enter

    enter(namespace)
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(handle)
        raise
    made.append(handle)


class Forwarder:
    """Passes packets on. Who has an address is learned from what it sends.

    Args:
        control: Brings the devices.
        one_way_s: For each packet.
        loss: Share of packets that are lost.
    """

    def __init__(self, control: socket.socket, one_way_s: float, loss: float) -> None:
        self._control = control
        self._one_way_s = one_way_s
        self._loss = loss
        self._random = random.Random("natlab")
        self._where: dict[bytes, int] = {}
        self._ends: list[int] = []
        self._waiting: list[tuple[float, int, bytes]] = []
        self._number = 0

    def close(self) -> None:
        """Closes the ends."""
        while self._ends:
            os.close(self._ends.pop())

    def run(self) -> None:
        """Passes packets on until the control socket ends."""
        with select.epoll() as poll:
            self._run(poll)

    def _run(self, poll: select.epoll) -> None:
        poll.register(self._control.fileno(), select.EPOLLIN)
        while True:
            wait = self._waiting[0][0] - time.monotonic() if self._waiting else -1.0
            for handle, _ in poll.poll(max(0.0, wait) if self._waiting else None):
                if handle != self._control.fileno():
                    self._read(handle)
                elif (new := self._take()) is None:
                    return
                else:
                    poll.register(new, select.EPOLLIN)
                    self._ends.append(new)
            self._write()

    def _take(self) -> int | None:
        data, ancillary, _, _ = self._control.recvmsg(16, socket.CMSG_SPACE(array.array("i").itemsize))
        if not data:
            return None
        handles = array.array("i")
        handles.frombytes(ancillary[0][2])
        return handles[0]

    def _read(self, handle: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(handle, _PACKET)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue  # the lab has no IPv6
            self._where[packet[12:16]] = handle
            if len(self._waiting) < _WAITING and self._random.random() >= self._loss:
                self._number += 1  # keeps the order of packets of one moment
                heapq.heappush(self._waiting, (time.monotonic() + self._one_way_s, self._number, packet))

    def _write(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            packet = heapq.heappop(self._waiting)[2]
            known = self._where.get(packet[16:20])
            for handle in self._ends if known is None else (known,):
                with contextlib.suppress(OSError):  # a device that is down, or full
                    os.write(handle, packet)


def main() -> None:
    """Runs the forwarder."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(control.recv(_PACKET))
    Forwarder(control, settings["one_way_s"], settings["loss"]).run()


if __name__ == "__main__":
    main()
