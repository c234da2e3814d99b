"""The backbone's catalog on a PostgreSQL of its own: bulk registration, policies, the next transfer among ten million replicas.

Registration is of files with their replica, history and two pending rows, through the public face; policies are put in force over
files that are registered already; the next transfer is taken as a mover takes it, from a catalog of the size given.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from record import record

from backbone import transfers
from backbone.backbone import Backbone
from backbone.files import NewFile
from backbone.policy import Policy
from backbone.settings import BackboneEndpoint, BackboneSettings
from deploy.postgres import PostgresServer

PLACES = ("base", "ncsa", "ccin2p3")
WHOLE = 10_000_000  # replicas
FILES = 100_000
PENDING = 100_000

# A catalog of this size, in the database itself: three replicas of each file, and some files that still wait for two of them.
FILL = (
    "INSERT INTO bb_file (key, size, sha256, cohort, created) SELECT 'old/' || i, 4096, lpad(to_hex(i), 64, '0'), :cohort, :now"
    " FROM generate_series(1, :files) i",
    "CREATE TEMP TABLE old AS SELECT id, row_number() OVER (ORDER BY id) AS n FROM bb_file WHERE key LIKE 'old/%'",
    "INSERT INTO bb_replica (file, endpoint, state, origin, verified)"
    " SELECT o.id, e.id, 'AVAILABLE', e.name = 'base', :now FROM old o CROSS JOIN bb_endpoint e"
    " WHERE e.name = 'base' OR o.n > :pending",
    "INSERT INTO bb_transfer (file, target, source, state, priority, deadline, created, attempts)"
    " SELECT o.id, e.id, b.id, 'PENDING', o.n % 10, :now + o.n % 1000, :now, 0 FROM old o CROSS JOIN bb_endpoint e"
    " CROSS JOIN bb_endpoint b WHERE e.name <> 'base' AND b.name = 'base' AND o.n <= :pending",
    "DROP TABLE old",
)


def policies(priority: int) -> list[Policy]:
    """Two copies of everything."""
    copies = [{"at": name, "within": "1h", "priority": priority} for name in PLACES[1:]]
    return [Policy.model_validate({"name": "two", "copies": copies})]


def files(prefix: str, count: int) -> list[NewFile]:
    """New files of a few kinds, as an engine would register them."""
    return [
        NewFile(
            key=f"{prefix}/{number:08d}.fits",
            size=4096,
            sha256=f"{number:064x}",
            dataset_type=("calexp", "src", "psf", "post_isr")[number % 4],
            collection=f"{prefix}/frames/1",
            instrument="bench",
            created=time.time(),
        )
        for number in range(count)
    ]


def next_transfer_ms(backbone: Backbone, rounds: int) -> float:
    """Median time to take one transfer, in its own transaction."""
    catalog = backbone.catalog
    source, target = catalog.endpoint_id("base"), catalog.endpoint_id("ncsa")
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        taken = transfers.take(catalog, source, target, limit=1, worker="bench", lease_s=60, now=time.time())
        times.append(time.perf_counter() - begun)
        assert len(taken) == 1
    return statistics.median(times) * 1000


def fill(backbone: Backbone, replicas: int) -> None:
    """Fill the catalog up to so many replicas and pending rows."""
    catalog = backbone.catalog
    with catalog.begin() as connection:
        cohort = connection.execute(sa.text("SELECT min(id) FROM bb_cohort")).scalar_one()
        values = {"cohort": cohort, "now": time.time(), "files": (replicas + 2 * PENDING) // 3, "pending": PENDING}
        for statement in FILL:
            connection.execute(sa.text(statement), {k: v for k, v in values.items() if f":{k}" in statement})
    with catalog.begin() as connection:
        connection.execute(sa.text("ANALYZE bb_file, bb_replica, bb_transfer"))


def measure(url: str, home: Path, *, replicas: int = WHOLE, count: int = FILES) -> dict[str, float]:
    """The three figures, on an empty database at `url`."""
    endpoints = {name: BackboneEndpoint(uri=name) for name in PLACES}
    backbone = Backbone.open(BackboneSettings(endpoints=endpoints, catalog=url), home)
    try:
        # Policies over files that are there: every one of them gets two pending rows.
        backbone.register("base", files("before", count), "bench", manifest=False)
        begun = time.perf_counter()
        effect = backbone.apply_policies(policies(50), actor="bench")
        policy_s = time.perf_counter() - begun
        assert sum(e.copies for e in effect.endpoints) == 2 * count
        # Registration under these policies, with the manifest that recovery needs.
        fresh = files("after", count)
        begun = time.perf_counter()
        assert backbone.register("base", fresh, "bench") == count
        rate = count / (time.perf_counter() - begun)
        with backbone.catalog.read() as connection:
            pending = connection.execute(sa.text("SELECT count(*) FROM bb_transfer WHERE state = 'PENDING'")).scalar_one()
        assert pending == 4 * count
        fill(backbone, replicas)
        with backbone.catalog.read() as connection:
            there = connection.execute(sa.text("SELECT count(*) FROM bb_replica")).scalar_one()
        assert there >= replicas
        next_ms = next_transfer_ms(backbone, 200)
    finally:
        backbone.close()
    return {
        "register_files_per_s": round(rate),
        "next_transfer_ms": round(next_ms, 2),
        "policy_100k_s": round(policy_s * 100_000 / count, 2),
    }


def run(replicas: int = WHOLE, count: int = FILES) -> dict[str, float]:
    """Measure on a server of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        server = PostgresServer(Path(folder))
        server.up()
        try:
            url = server.database("bench").replace("postgresql://", "postgresql+psycopg2://")
            return measure(url, Path(folder), replicas=replicas, count=count)
        finally:
            server.down()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=WHOLE)
    parser.add_argument("--files", type=int, default=FILES)
    chosen = parser.parse_args()
    found = run(chosen.replicas, chosen.files)
    print(found)
    if chosen.replicas >= WHOLE and chosen.files >= FILES:
        # Less would be another measurement.
        command = "python benchmarks/bench_backbone_catalog.py"
        record("backbone", found, command=command, what=" ".join((__doc__ or "").split()))
