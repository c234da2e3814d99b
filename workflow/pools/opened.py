"""Opens the pools that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from backbone.endpoint import Endpoint
from workflow.errors import PoolUnavailable
from workflow.pools.htcondor import CondorPool
from workflow.pools.local import LocalPool
from workflow.pools.pool import Pool
from workflow.pools.settings import HTCondorPool
from workflow.pools.warm import WarmPool
from workflow.settings import Settings, Site


def open_pools(settings: Settings, endpoint: Callable[[str], Endpoint]) -> dict[str, Pool]:
    """Pool by the name of its site; `endpoint` opens that of a site, where a pool's jobs stay for others."""
    return {site.name: _staying(settings, site, endpoint) for site in settings.sites}


def _staying(settings: Settings, site: Site, endpoint: Callable[[str], Endpoint]) -> Pool:
    behind, pool = open_pool(settings, site), site.pool
    folder = settings.run_dir / "workers" / site.name
    if not pool.stay_s and not any(folder.glob("*.json")):  # else there are workers of earlier settings, with jobs
        return behind
    return WarmPool(behind, folder, endpoint=partial(endpoint, site.name), slots=pool.slots, idle_s=pool.stay_s)


def open_pool(settings: Settings, site: Site) -> Pool:
    """The pool of a site itself, where each job is a job of its own."""
    folder, pool = settings.run_dir / "jobs" / site.name, site.pool
    if not isinstance(pool, HTCondorPool):
        return LocalPool(folder, slots=pool.slots, name=site.name)
    collector = partial(collector_of, settings.home, site.name, pool)
    return CondorPool(folder, pool, name=site.name, collector=collector, tokens=settings.home / pool.tokens, owner=settings.owner)


def collector_of(home: Path, site: str, pool: HTCondorPool) -> str:
    """Address of a site's collector: of its settings, or of the pool that `pachon up` started here; PoolUnavailable without."""
    if pool.collector:
        return pool.collector
    path = home / "servers" / "condor" / site / "address"
    try:
        return path.read_text().strip()
    except FileNotFoundError as error:
        raise PoolUnavailable(
            f"pool {site} was never started here: run `pachon up`, or name its `collector:` in the site's settings"
        ) from error
