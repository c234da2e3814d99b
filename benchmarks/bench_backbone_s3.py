"""Puts into a real S3 server beside plain boto3: same server, same bucket, same checksums, same run.

Large: files of 64 MiB beside boto3's transfer manager (`upload_file`) as it comes. Small: objects of 4 KiB beside a loop of
`put_object`. Both send SHA-256 sums that the server verifies. The two take turns, so that what else the machine does, and how far
the server's volumes have grown, weighs on both alike; ours also stores the object's sum and description, which boto3's do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from record import record

from backbone.endpoint import NewObject
from backbone.endpoints import open_endpoint
from backbone.errors import PachonError
from deploy.seaweedfs import ObjectStore, credentials_file

LARGE_BYTES = 64 << 20
SMALL_BYTES = 4 << 10
SMALL = 10_000
BLOCK = 500  # small objects between two turns
TURNS = 8  # of the large ones


def took_s(act: Callable[[], object]) -> float:
    """Wall time of one act."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def large_put_ratio(endpoint, client, folder: Path, turns: int) -> float:
    """Our rate over the transfer manager's, of medians."""
    source = folder / "large"
    source.write_bytes(os.urandom(LARGE_BYTES))
    config, extra = TransferConfig(), {"ChecksumAlgorithm": "SHA256"}
    ours, theirs = [], []
    for turn in range(turns + 1):
        about = {"dataset_type": "raw"}
        pair = (
            took_s(lambda turn=turn, about=about: endpoint.put(f"large/ours/{turn}", source, about=about)),
            took_s(
                lambda turn=turn: client.upload_file(str(source), "bench", f"large/theirs/{turn}", ExtraArgs=extra, Config=config)
            ),
        )
        if turn:  # the first warms the server's volumes
            ours.append(pair[0])
            theirs.append(pair[1])
        endpoint.discard("large/ours/")
        client.delete_object(Bucket="bench", Key=f"large/theirs/{turn}")
    mib = LARGE_BYTES / (1 << 20)
    print(f"64 MiB: ours {mib / statistics.median(ours):.1f} MiB/s, transfer manager {mib / statistics.median(theirs):.1f} MiB/s")
    return statistics.median(theirs) / statistics.median(ours)


def small_put_ratio(endpoint, client, count: int) -> float:
    """Our rate over that of a loop of put_object, of all objects of the run."""
    ours_s = theirs_s = 0.0
    for start in range(0, count, BLOCK):
        contents = [os.urandom(SMALL_BYTES) for _ in range(min(BLOCK, count - start))]
        objects = [
            NewObject(key=f"small/ours/{start + n}", content=content, about={"dataset_type": "raw"})
            for n, content in enumerate(contents)
        ]

        def put_many(objects: list[NewObject] = objects) -> None:
            failed = [answer for answer in endpoint.put_many(objects) if isinstance(answer, PachonError)]
            if failed:
                raise failed[0]

        def loop(contents: list[bytes] = contents, start: int = start) -> None:
            for n, content in enumerate(contents):
                client.put_object(Bucket="bench", Key=f"small/theirs/{start + n}", Body=content, ChecksumAlgorithm="SHA256")

        # Who goes first changes from block to block.
        if start // BLOCK % 2:
            theirs_s += took_s(loop)
            ours_s += took_s(put_many)
        else:
            ours_s += took_s(put_many)
            theirs_s += took_s(loop)
    print(f"{count} of 4 KiB: ours {count / ours_s:.0f}/s, put_object loop {count / theirs_s:.0f}/s")
    return theirs_s / ours_s


def main() -> None:
    """Start a server, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=SMALL, help="objects of 4 KiB")
    parser.add_argument("--turns", type=int, default=TURNS, help="files of 64 MiB")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        store = ObjectStore(home, {"bench": ("bench",)})
        store.up()
        try:
            credentials = credentials_file(home)
            os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
            client = boto3.Session(profile_name="bench").client("s3")
            with open_endpoint(store.uri("bench"), name="bench", credentials=credentials) as endpoint:
                figures = {
                    "large_put_ratio": round(large_put_ratio(endpoint, client, home, chosen.turns), 3),
                    "small_put_ratio": round(small_put_ratio(endpoint, client, chosen.small), 3),
                }
            client.close()
        finally:
            store.down()
    print(figures)
    if not chosen.no_record:
        words = "rate of our puts over plain boto3's, same server: 64 MiB and transfer manager; 4 KiB and a loop"
        record("backbone", figures, command="python benchmarks/bench_backbone_s3.py", what=words)


if __name__ == "__main__":
    main()
