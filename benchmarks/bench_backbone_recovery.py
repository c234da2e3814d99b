"""Disaster: a place is lost and filled from the others, then the catalog is lost and rebuilt from the objects.

On three S3 servers and PostgreSQL, with movers as processes, by the commands that docs/operations.md names, their start included;
afterwards every object is read at the place, and every file and replica is compared with what the catalog knew before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from record import record

from backbone.backbone import Backbone
from deploy.soak.rounds import BATCH, Round
from deploy.soak.stand import PLACES, Stand, can_be_real

OBJECTS = 3000


def recover(stand: Stand, *which: str) -> tuple[float, dict[str, Any]]:
    """Run the command; seconds, and what it says."""
    argv = [sys.executable, "-m", "deploy.cli", "backbone", "recover", "--home", str(stand.home), "--json", *which]
    begun = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, json.loads(done.stdout)


def contents(backbone: Backbone) -> dict[str, set[tuple[str, str]]]:
    """Checksum and places of every file."""
    with backbone.catalog.read() as connection:
        keys = [row[0] for row in connection.exec_driver_sql("SELECT key FROM bb_file")]
    return {key: {(r.endpoint, r.sha256) for r in replicas} for key, replicas in backbone.locate(keys).items()}


def wrong(backbone: Backbone, one: Round, place: str, objects: int) -> int:
    """How many objects the place does not give back as they were put."""
    endpoint: Any = backbone.endpoint(place)
    parts = [range(start, min(start + BATCH, objects)) for start in range(0, objects, BATCH)]
    return sum(
        content != one.content(n)
        for part in parts
        for n, content in zip(part, endpoint.get_many([one.key(n) for n in part]), strict=True)
    )


def run(objects: int) -> dict[str, float]:
    """Measure on a stand of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(Path(folder, "home"))
        try:
            with closing(stand.up()) as backbone:
                one = Round(backbone, seed=1, first=0, count=objects, damage=0.001, say=print)
                one.run()
                stand.lose_place("ncsa")
                endpoint_s, said = recover(stand, "--endpoint", "ncsa", "--wait")
                assert (said["lost"], said["still_missing"]) == (objects, 0), said
                assert wrong(backbone, one, "ncsa", objects) == 0
                before = contents(backbone)
                assert all(len(places) == len(PLACES) for places in before.values())
            stand.lose_catalog()
            catalog_s, said = recover(stand, "--catalog")
            assert (said["files"], said["unknown"], said["conflicts"]) == (objects, 0, 0), said
            with closing(stand.open()) as backbone:
                assert contents(backbone) == before
        finally:
            stand.down()
    return {
        "recover_objects": objects,
        "recover_endpoint_s": round(endpoint_s, 1),
        "recover_catalog_s": round(catalog_s, 1),
    }


def main() -> None:
    """Measure, and record what is of the full size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    objects = parser.parse_args().objects
    if not can_be_real():
        print("no S3 server or no PostgreSQL here: nothing is measured")
        return
    found = run(objects)
    print(found)
    if objects >= OBJECTS:
        record("backbone", found, command="python benchmarks/bench_backbone_recovery.py", what=" ".join((__doc__ or "").split()))


if __name__ == "__main__":
    main()
