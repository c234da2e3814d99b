"""A camera at the door of prompt ingest: sends a frame until it is answered. The simulated camera's side, and a real one's."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from backbone.errors import TransientError
from backbone.messages.prompt import Mode
from services.prompt_ingest.announced import Announced, FrameRefused
from services.prompt_ingest.app import HEADER

_LOG = logging.getLogger(__name__)
_AGAIN_S = 0.2


@dataclass
class Camera:
    """Sends frames to the instance at `url()`, which may be another after each restart."""

    url: Callable[[], str]
    token: str
    patience_s: float = 60.0
    verify: str | bool = True
    _client: httpx.Client | None = field(default=None, init=False)

    def send(
        self,
        content: bytes,
        *,
        exposure: int,
        detector: int,
        visit: int | None = None,
        exposures: Sequence[int] = (),
        mode: Mode = Mode.SCIENCE,
        readout_end: float,
    ) -> None:
        """Returns when ingest has it for good. FrameRefused where it never will; TransientError after `patience_s`."""
        said = Announced(
            exposure=exposure,
            detector=detector,
            visit=exposure if visit is None else visit,
            exposures=tuple(exposures) or (exposure,),
            mode=mode,
            readout_end=readout_end,
            sha256=hashlib.sha256(content).hexdigest(),
        )
        headers = {HEADER: json.dumps(said.model_dump(mode="json")), "Authorization": f"Bearer {self.token}"}
        limit = time.monotonic() + self.patience_s
        while True:
            try:
                return self._post(content, headers)
            except (httpx.HTTPError, FileNotFoundError, TransientError) as error:
                if time.monotonic() > limit:
                    raise TransientError(f"frame {said.name} is not taken after {self.patience_s:.0f} s: {error}") from error
                _LOG.info("frame %s again: %s", said.name, error)
                time.sleep(_AGAIN_S)

    def _post(self, content: bytes, headers: dict[str, str]) -> None:
        self._client = self._client or httpx.Client(timeout=10, trust_env=False, verify=self.verify)
        answer = self._client.post(f"{self.url()}/frames", content=content, headers=headers)
        if answer.status_code >= 500:
            raise TransientError(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code != 201:
            raise FrameRefused(f"{answer.status_code}: {answer.text[:500]}")

    def close(self) -> None:
        """Let the connection go."""
        if self._client is not None:
            self._client.close()
