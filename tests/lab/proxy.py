"""A line to a far host, on loopback: bytes take their time, and connections break.

    proxy.py TARGET_PORT [--delay SECONDS] [--cut SHORTEST LONGEST] [--seed N]

Listens on a free port of 127.0.0.1, prints it, and passes on what comes to TARGET_PORT. Every byte
arrives ``delay`` seconds after it was sent, in either direction; the bandwidth is that of the
machine. With ``cut`` each connection is reset after a random time between the two.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
from collections import deque

CHUNK = 1 << 16


class Line:
    """One direction of a connection."""

    def __init__(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float
    ) -> None:
        self.source, self.target, self.delay = source, target, delay
        self.under_way: deque[tuple[float, bytes]] = deque()
        self.news = asyncio.Event()

    async def run(self) -> None:
        await asyncio.gather(self._take(), self._deliver())

    async def _take(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                data = await self.source.read(CHUNK)
            except OSError:
                data = b""
            self.under_way.append((clock() + self.delay, data))
            self.news.set()
            if not data:
                return

    async def _deliver(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            while not self.under_way:
                self.news.clear()
                await self.news.wait()
            when, data = self.under_way.popleft()
            if when > clock():
                await asyncio.sleep(when - clock())
            if not data:
                self.target.close()
                return
            try:
                self.target.write(data)
                await self.target.drain()
            except OSError:
                return


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection as a lost route does: nothing is said, and the next byte finds nobody."""
    line = writer.get_extra_info("socket")
    if line is not None and line.fileno() >= 0:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--cut", type=float, nargs=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)

    async def serve(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", options.target
            )
        except OSError:
            writer.close()
            return
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
        both = asyncio.gather(
            Line(reader, far_writer, options.delay).run(),
            Line(far_reader, writer, options.delay).run(),
        )
        try:
            await asyncio.wait_for(
                both, moments.uniform(*options.cut) if options.cut else None
            )
        except (asyncio.TimeoutError, OSError):
            reset(writer)
            reset(far_writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
