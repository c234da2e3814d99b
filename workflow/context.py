"""What every part of the engine works with: settings, ledger, clock, and what is opened only when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from workflow.clock import Clock, SystemClock
from workflow.errors import SettingsError
from workflow.job import Place
from workflow.ledger import Ledger
from workflow.pools.opened import open_pools
from workflow.pools.pool import Pool
from workflow.settings import EngineSettings, Settings


class Context:
    """One installation, opened by one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        pools: Mapping[str, Pool] | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger or Ledger.open(settings.ledger_url)
        self.clock: Clock = clock or SystemClock()
        self._pools = pools
        self._endpoints: dict[str, Endpoint] = {}

    @property
    def engine(self) -> EngineSettings:
        """Timings and sizes."""
        return self.settings.engine

    @cached_property
    def butler(self) -> Any:
        """The repository, writeable. One connection for the life of the process."""
        from lsst.daf.butler import Butler  # 2 s of imports, which readers of statuses do without

        try:
            return Butler.from_config(self.settings.repo_uri, writeable=True)
        except FileNotFoundError as error:
            raise SettingsError(f"no Butler repository at {self.settings.repo_uri}: make one with `pachon init`") from error

    @cached_property
    def pools(self) -> Mapping[str, Pool]:
        """Pool by the name of its site."""
        return self._pools if self._pools is not None else open_pools(self.settings)

    def place(self, site: str) -> Place:
        """A site's endpoint, as jobs are told it."""
        endpoint = next(s.endpoint for s in self.settings.sites if s.name == site)
        return Place(name=site, uri=self.settings.endpoint_uri(site), url=endpoint.url)

    def endpoint(self, site: str) -> Endpoint:
        """A site's endpoint."""
        if site not in self._endpoints:
            place = self.place(site)
            self._endpoints[site] = open_endpoint(place.uri, name=place.name, **({"url": place.url} if place.url else {}))
        return self._endpoints[site]

    @cached_property
    def archive(self) -> Endpoint:
        """Where the registry's files are: the first site's endpoint.

        SettingsError if another site has an endpoint of its own: nothing here replicates between them.
        """
        uris = {self.settings.endpoint_uri(site.name) for site in self.settings.sites}
        if len(uris) > 1:
            raise SettingsError(
                f"the sites have {len(uris)} endpoints and replication between them is not there yet: give them one"
            )
        return self.endpoint(self.settings.sites[0].name)
