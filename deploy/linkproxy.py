"""Links between sites that can be slowed and cut: a TCP proxy for each, all in one process, told what to do by a file.

A transfer over the link base→ncsa reaches ncsa's server through the link's own loopback port (`Link.url` in the settings).
HOME/run/links.json says the state of each link; the process reads it when it changes. A cut link takes no connections and breaks
those it has, like a cable that was pulled; a slow one lets through so many bytes a second, both ways together. S3's signatures
cover the Host header that the client sends, which the proxy does not touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from backbone.errors import PermanentError
from deploy.ports import LOOPBACK, port
from deploy.processes import Program

_BLOCK_BYTES = 1 << 16
_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class LinkState:
    """How a link is to behave; `port` and `target` (host:port) are where it listens and leads."""

    port: int
    target: str
    is_cut: bool = False
    bytes_per_s: float | None = None


@dataclass
class LinkProxy:
    """One link: connections come in at `state.port` and go on to `state.target`."""

    state: LinkState
    _server: asyncio.Server | None = None
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _free_at: float = 0.0

    async def obey(self, state: LinkState) -> None:
        """Behave as this says from now on."""
        self.state = state
        if state.is_cut:
            await self.close()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, state.port)

    async def close(self) -> None:
        """Take no more connections and break those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, number = self.state.target.rpartition(":")
        try:
            there, onward = await asyncio.open_connection(host, int(number))
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, onward}
        self._connections |= ends
        try:
            await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))
        finally:
            self._connections -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK_BYTES):
                await self._wait(len(block))
                writer.write(block)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def _wait(self, size: int) -> None:
        if self.state.bytes_per_s is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + size / self.state.bytes_per_s
            await asyncio.sleep(self._free_at - now)


@dataclass(frozen=True)
class Links:
    """All links of a home: a server of the stack. `routes`: addresses (URLs) of the targets' servers by (source, target);
    `listen`: the ports of those that must be known beforehand.
    """

    home: Path
    routes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    listen: Mapping[tuple[str, str], int] = field(default_factory=dict)

    name = "links"

    @property
    def file(self) -> Path:
        """What each link is told."""
        return self.home / "run" / "links.json"

    def url(self, source: str, target: str) -> str:
        """The address of the target's server over this link."""
        return f"http://{LOOPBACK}:{self._port(source, target)}"

    def up(self) -> None:
        """Start unless it runs; links that were told something before keep to it."""
        told = self.states()
        states = {}
        for (source, target), url in self.routes.items():
            before = told.get(f"{source}:{target}")
            new = LinkState(port=self._port(source, target), target=urlsplit(url).netloc)
            kept = {} if before is None else {"is_cut": before.is_cut, "bytes_per_s": before.bytes_per_s}
            states[f"{source}:{target}"] = LinkState(**{**asdict(new), **kept})
        self._tell(states)
        self._program().start()

    def down(self) -> int:
        """Stop it."""
        return int(self._program().stop() > 0)

    def running(self) -> bool:
        """Whether it runs."""
        return self._program().leader() is not None

    def states(self) -> dict[str, LinkState]:
        """Every link, `source:target`, and what it was told."""
        if not self.file.exists():
            return {}
        return {name: LinkState(**said) for name, said in json.loads(self.file.read_text()).items()}

    def tell(self, source: str, target: str, *, is_cut: bool = False, bytes_per_s: float | None = None) -> None:
        """Cut, slow or mend (neither) a link."""
        states = self.states()
        name = f"{source}:{target}"
        if name not in states:
            raise PermanentError(f"no link {source}→{target}; there are: {', '.join(states) or 'none, run `pachon up`'}")
        self._tell({**states, name: LinkState(**{**asdict(states[name]), "is_cut": is_cut, "bytes_per_s": bytes_per_s})})

    def _tell(self, states: Mapping[str, LinkState]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        part.write_text(json.dumps({name: asdict(state) for name, state in states.items()}, indent=1))
        part.replace(self.file)

    def _port(self, source: str, target: str) -> int:
        if (source, target) in self.listen:
            return self.listen[source, target]
        return port(self.home, f"link-{source}-{target}", in_use_by_us=self.running())

    def _program(self) -> Program:
        home = self.home.resolve()
        return Program(self.name, (sys.executable, "-m", "deploy.linkproxy", str(self.file.resolve())), dict(os.environ), home)


async def serve(file: Path, stop: asyncio.Event) -> None:
    """Keep to what the file says until `stop`."""
    proxies: dict[str, LinkProxy] = {}
    seen: tuple[int, int] | None = None
    while not stop.is_set():
        found = file.stat()
        if (found.st_mtime_ns, found.st_ino) != seen:
            seen = (found.st_mtime_ns, found.st_ino)
            for name, said in json.loads(file.read_text()).items():
                state = LinkState(**said)
                await proxies.setdefault(name, LinkProxy(state)).obey(state)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_S)
    for proxy in proxies.values():
        await proxy.close()


async def _main(file: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(file, stop)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
