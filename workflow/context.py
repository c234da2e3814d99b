"""What every part of the engine works with: settings, ledger, clock, and what is opened only when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint, use_profiles
from backbone.qc.certifications import Certifications
from backbone.qc.quality import Quality
from backbone.qc.tables import QualityTables
from workflow.clock import Clock, SystemClock
from workflow.errors import SettingsError
from workflow.job import CacheSpace, Place
from workflow.ledger import Ledger
from workflow.pools.opened import open_pools
from workflow.pools.pool import Pool
from workflow.settings import CacheSettings, EngineSettings, Settings


class Context:
    """One installation, opened by one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        pools: Mapping[str, Pool] | None = None,
        backbone: Any = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger or Ledger.open(settings.ledger_url)
        self.clock: Clock = clock or SystemClock()
        self._pools = pools
        self._endpoints: dict[str, Endpoint] = {}
        if backbone is not None:
            self.backbone = backbone

    @property
    def engine(self) -> EngineSettings:
        """Timings and sizes."""
        return self.settings.engine

    @cached_property
    def butler(self) -> Any:
        """The repository, writeable. One connection for the life of the process."""
        from lsst.daf.butler import Butler  # 2 s of imports, which readers of statuses do without

        file = self.settings.endpoint_settings(self.settings.archive_name).credentials
        if file:
            use_profiles(self.settings.home / file)
        try:
            return Butler.from_config(self.settings.repo_uri, writeable=True)
        except FileNotFoundError as error:
            raise SettingsError(f"no Butler repository at {self.settings.repo_uri}: make one with `pachon init`") from error

    @cached_property
    def pools(self) -> Mapping[str, Pool]:
        """Pool by the name of its site."""
        return self._pools if self._pools is not None else open_pools(self.settings, self.endpoint)

    @cached_property
    def backbone(self) -> Any:
        """The `backbone.backbone.Backbone` that moves files between endpoints; None where there is one endpoint for all."""
        if self.settings.backbone is None:
            return None
        from backbone.backbone import Backbone  # its database is nothing to those who never move a file

        return Backbone.open(self.settings.backbone, self.settings.home)

    @cached_property
    def quality(self) -> Quality:
        """Metrics and alarms, in the ledger's database."""
        return Quality(QualityTables.open(self.settings.ledger_url), self.clock.now)

    @cached_property
    def certifications(self) -> Certifications:
        """The books of certified calibrations, in the ledger's database."""
        return Certifications(QualityTables.open(self.settings.ledger_url), self.clock.now)

    def place(self, site: str) -> Place:
        """A site's endpoint, as jobs are told it."""
        settings = self.settings.site(site)
        endpoint = self.settings.endpoint_settings(settings.endpoint_name)
        credentials = str(self.settings.home / endpoint.credentials) if endpoint.credentials else None
        uri, cache = self.settings.located(endpoint.uri), self._space(settings.cache)
        return Place(name=site, uri=uri, url=endpoint.url, credentials=credentials, cache=cache)

    def _space(self, cache: CacheSettings | None) -> CacheSpace | None:
        if cache is None:
            return None
        limits = {"max_bytes": int(cache.max_gb * 1e9), "min_free_bytes": int(cache.free_gb * 1e9)}
        return CacheSpace(folder=str(self.settings.home / cache.folder), dataset_types=cache.dataset_types, **limits)

    def endpoint(self, site: str) -> Endpoint:
        """A site's endpoint."""
        return self.endpoint_named(self.settings.site(site).endpoint_name)

    def endpoint_named(self, name: str) -> Endpoint:
        """An endpoint by its own name."""
        if name not in self._endpoints:
            self._endpoints[name] = self._opened(name)
        return self._endpoints[name]

    def _opened(self, name: str) -> Endpoint:
        if self.backbone is not None:
            found: Endpoint = self.backbone.endpoint(name)
            return found
        endpoint = self.settings.endpoint_settings(name)
        file = self.settings.home / endpoint.credentials if endpoint.credentials else None
        return open_endpoint(self.settings.located(endpoint.uri), name=name, url=endpoint.url, credentials=file)

    @cached_property
    def archive(self) -> Endpoint:
        """Where the registry's files are.

        SettingsError if a site has an endpoint of its own and there is no backbone to move files between them.
        """
        if self.settings.backbone is None and not self.settings.has_one_endpoint:
            raise SettingsError(
                "the sites have endpoints of their own, and nothing moves files between them: describe them under backbone: "
                "in pachon.yaml, or give all sites one endpoint"
            )
        return self.endpoint_named(self.settings.archive_name)
