"""Scenes against their truth, all together and each: `python benchmarks/prompt_truth.py SCENE…`; JSON to stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from payloads.prompt.detector import process_detector
from payloads.prompt.scoring import score, summary

sys.path.insert(0, str(Path(__file__).parent))
import prompt_scenes


def main() -> None:
    """Score."""
    scores, by_scene = [], {}
    for place in map(Path, sys.argv[1:]):
        visit = prompt_scenes.read(place)
        result = process_detector([visit.raw], visit.preloaded, processed_mjd_tai=60_000.0)
        scores.append(score(visit, result))
        by_scene[place.name] = summary([scores[-1]])
    worst = max(by_scene, key=lambda name: by_scene[name]["false_per_detector"])
    print(json.dumps(summary(scores) | {"worst_scene": worst, "by_scene": by_scene}))


if __name__ == "__main__":
    main()
