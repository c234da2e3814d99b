"""Opens the pools that the settings name."""

from __future__ import annotations

from workflow.pools.local import LocalPool
from workflow.pools.pool import Pool
from workflow.settings import Settings


def open_pools(settings: Settings) -> dict[str, Pool]:
    """Pool by the name of its site."""
    return {
        site.name: LocalPool(settings.run_dir / "jobs" / site.name, slots=site.pool.slots, name=site.name)
        for site in settings.sites
    }
