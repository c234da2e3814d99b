"""The door of one camera: frames by HTTP, each answered when it can no longer be lost."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from backbone.models import parse
from services.prompt_ingest.announced import Announced, FrameRefused, check_content
from services.prompt_ingest.forwarder import Forwarder
from services.prompt_ingest.spool import Spool

HEADER = "x-pachon-frame"


def door(spool: Spool, forwarder: Forwarder, *, token: str, max_bytes: int, clock: Callable[[], float] = time.time) -> FastAPI:
    """`POST /frames` (what the frame is: JSON in the header `x-pachon-frame`), `GET /status`; both with the camera's token."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        forwarder.begin()
        yield
        await run_in_threadpool(forwarder.close)

    app = FastAPI(title="Prompt ingest", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)

    def admit(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "the camera's token is wanted: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    @app.post("/frames", status_code=201)
    async def frame(request: Request) -> dict[str, Any]:
        """Take one frame."""
        admit(request)
        try:
            said = _announced(request.headers.get(HEADER, ""))
            content, found = await _body(request, max_bytes)
            received = clock()
            check_content(content, said.sha256, found)
            entry = await run_in_threadpool(spool.put, said, content, received)
        except FrameRefused as error:
            raise HTTPException(422, str(error)) from error
        forwarder.add(entry)
        return {"frame": said.name, "received": received}

    @app.get("/status")
    def status(request: Request) -> dict[str, Any]:
        """How many frames wait, and how many were sent on since the start."""
        admit(request)
        return {"waiting": spool.depth(), "sent": forwarder.sent}

    return app


def _announced(text: str) -> Announced:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameRefused(f"header {HEADER}: no JSON: {error}") from error
    return parse(Announced, data, what=f"header {HEADER}", error=FrameRefused)


async def _body(request: Request, max_bytes: int) -> tuple[bytes, str]:
    """The bytes and their SHA-256; refused as soon as they are too many."""
    digest, parts, size = hashlib.sha256(), list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise FrameRefused(f"more than {max_bytes} bytes: no frame of this camera is so large")
        digest.update(part)
        parts.append(part)
    return b"".join(parts), digest.hexdigest()
