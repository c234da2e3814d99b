"""A tiny survey over two sites: raw lands at base, jobs read and write at their own site, products reach both access centres."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import yaml

from backbone.cache import Cache
from backbone.home import open_backbone
from deploy.demo.local import run_locally
from deploy.demo.prepare import prepare
from deploy.demo.sites import ACCESS, ARCHIVE, COMPUTE, Parts, make_home, settle, where
from deploy.stack import Stack, default_dags
from payloads.repository import open_repository
from tests.workflow.conftest import forked_runner
from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.ledger import Ledger, tables
from workflow.loop import Pace, Stop, run_until_ended
from workflow.pools.fake import FakePool
from workflow.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def done(survey, tmp_path_factory):
    """A home after calibration and a release, on folders, with a mover as a process; jobs are forks of this one."""
    home = tmp_path_factory.mktemp("sites") / "home"
    make_home(home, Parts(), print)
    case = prepare(home, survey, print)
    stack = Stack(home, with_engine=False, with_airflow=False)
    calibration = next(run for run in case.runs() if run.stage == "calibration")  # of the first day, valid from then on
    try:
        stack.up(print)
        context = Context(Settings.load(home), pools={name: FakePool(slots=1, name=name, run=forked_runner) for name in COMPUTE})
        campaigns = Campaigns(context.settings, context=context)
        statuses = run_locally(home, default_dags(), [calibration], campaigns)
        statuses.append(release(campaigns, case))
        settle(home, print)
        yield home, case, statuses
    finally:
        stack.down(print)


def release(campaigns, case):
    """The first steps of the release, the others being more of the same."""
    path = default_dags() / "productions" / "release.yaml"
    whole = yaml.safe_load(path.read_text())
    first, last = case.science_days[0], case.science_days[-1]
    values = {"instrument": case.instrument, "skymap": case.instrument, "release": "r1", "first_day": first, "last_day": last}
    campaigns.start({**whole, "steps": whole["steps"][:2]}, name="r1", parameters=values, actor="tester")
    show = {"show": lambda _: None, "advance": True, "stop": Stop()}
    return run_until_ended(campaigns, "r1", pace=Pace(0.05, 0.5), **show)


def holdings(home, dataset_type):
    """Keys of a dataset type → endpoints where they are whole."""
    with open_repository(home / "repo") as butler:
        refs = butler.query_datasets(dataset_type, "*", find_first=False, limit=None)
        keys = [butler._datastore.export_records([ref])["pachon"].records[ref.id] for ref in refs]
    paths = [info.path for tables_ in keys for infos in tables_.values() for info in infos]
    backbone = open_backbone(home)
    try:
        return {key: {one.endpoint for one in found if one.state == "AVAILABLE"} for key, found in backbone.locate(paths).items()}
    finally:
        backbone.close()


def test_everything_is_published(done):
    _, _, statuses = done
    assert all(step.published == step.expected > 0 for status in statuses for step in status.steps)


def test_half_of_the_releases_groups_ran_at_each_site(done):
    home, _, _ = done
    ran = where(home)["sites"]
    groups = [ran[site]["release_groups"] for site in COMPUTE]
    assert sum(groups) > 4
    assert abs(groups[0] - groups[1]) <= 1
    assert all(ran[site]["quanta"] > 0 for site in COMPUTE)


def test_jobs_wrote_at_their_own_site(done):
    home, _, _ = done
    settings = Settings.load(home)
    ledger = Ledger.open(settings.ledger_url)
    ran = {row.id: row.site for row in ledger.all(sa.select(tables.job.c.id, tables.job.c.site))}
    ledger.close()
    for key, places in holdings(home, "calexp").items():
        assert {ran[key.split("/")[1]], ARCHIVE} <= places


def test_masters_came_to_each_site_once_and_its_jobs_read_them_from_its_cache(done):
    home, _, _ = done
    masters = {key for dataset_type in ("bias", "dark", "flat") for key in holdings(home, dataset_type)}
    frames = set(holdings(home, "raw"))
    for site in COMPUTE:
        space = Settings.load(home).site(site).cache
        cache = Cache(home / space.folder, max_bytes=int(space.max_gb * 1e9))
        assert {key for key in masters if cache.holds(key)}, "jobs of this site read some"
        assert not {key for key in frames if cache.holds(key)}, "what is of one exposure is read in place"
        assert 0 < cache.usage().size_bytes <= cache.max_bytes


def test_raw_is_at_three_places_and_release_products_at_both_access_centres(done):
    home, _, _ = done
    raw, coadds = holdings(home, "raw"), holdings(home, "deep_coadd")
    assert raw
    assert coadds
    assert all({ARCHIVE, *COMPUTE} <= places for places in raw.values())
    assert all({ARCHIVE, *ACCESS} <= places for places in coadds.values())


def test_stage_in_rules_are_over_when_the_campaigns_are(done):
    home, _, _ = done
    ledger = Ledger.open(Settings.load(home).ledger_url)
    rows = ledger.all(sa.select(tables.placement))
    ledger.close()
    assert rows
    assert all(row.released and row.staged for row in rows)
