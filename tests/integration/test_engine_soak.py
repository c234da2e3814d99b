"""A small campaign with every kind of fault, on two real pools and PostgreSQL, while things die: the ledger is the truth.

`make soak-engine` has the long one, with Airflow.
"""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from deploy.processes import marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
INPUTS, GROUP = 100, 50
EVERY_S = 10
MINUTES = 5
BLOWS = 6


@pytest.fixture(scope="module")
def soak_modules():
    """The soak's modules, which import one another by name."""
    folder = str(Path(__file__).parent / "soak")
    sys.path.append(folder)
    yield importlib.import_module
    sys.path.remove(folder)


def test_ledger_is_the_truth_whatever_died(soak_modules, condor, postgresql_programs, tmp_path_factory, monkeypatch):
    condor.server("ncsa")  # skips where HTCondor is not to be had
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    engine_soak = soak_modules("engine_soak")
    home = tmp_path_factory.mktemp("soak")
    soak = engine_soak.Soak(home, inputs=INPUTS, detectors=GROUP, seed=7, airflow=False, every_s=EVERY_S, blows=BLOWS)
    soak.make()
    assert soak.run(MINUTES), "not ended in time"
    assert soak.differences() == []
    assert marked(f"{home}:") == []
    assert sum(soak.tally["blows"].values()) > 0


@pytest.fixture
def told(soak_modules):
    """A truth, and books that tell it."""
    truth = soak_modules("truth")
    drawn = truth.Truth.drawn(INPUTS, seed=1)
    everyone = [(label, number) for label in truth.LABELS for number in range(INPUTS)]
    done = Counter(one for one in everyone if drawn.state(*one) == "SUCCEEDED")
    failures = {}
    for one in everyone:
        deed = drawn.deed(*one)
        if deed.cause and drawn.state(*one) != "PRUNED":
            failures[one] = Counter({deed.cause: truth.BUDGETS[deed.cause] + (deed.state == "FAILED")})
    return drawn, truth.Books([(one, drawn.state(*one)) for one in everyone], failures, done, Counter(done))


def kinds(soak_modules, told):
    return Counter(d.kind for d in soak_modules("truth").differences(*told))


def test_shares_of_the_faults_are_those_asked_for(soak_modules, told):
    drawn, _ = told
    truth = soak_modules("truth")
    counted = Counter(drawn.deeds.values())
    assert counted == {name: round(2 * INPUTS * deed.share) for name, deed in truth.DEEDS.items()}


def test_books_that_tell_the_truth_have_no_difference(soak_modules, told):
    assert kinds(soak_modules, told) == {}


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (lambda books, good, bad: books.states.remove((good, "SUCCEEDED")), "lost"),
        (lambda books, good, bad: books.published.pop(good), "lost"),
        (lambda books, good, bad: books.accepted.update([bad]), "lost"),
        (lambda books, good, bad: books.accepted.update([good]), "twice"),
        (lambda books, good, bad: books.states.append((good, "SUCCEEDED")), "twice"),
        (lambda books, good, bad: books.failures.update({good: Counter(science=1)}), "wrong_class"),
        (lambda books, good, bad: books.failures[bad].update(out_of_memory=1), "wrong_class"),
        (lambda books, good, bad: books.failures[bad].update(signal=2), "over_budget"),
    ],
    ids=["row", "published", "failed but accepted", "accepted", "rows", "good but failed", "other class", "retries"],
)
def test_every_lie_of_the_books_is_found(soak_modules, told, lie, kind):
    drawn, books = told
    good = next(one for one, state in books.states if state == "SUCCEEDED" and one not in drawn.deeds)
    bad = next(one for one, name in drawn.deeds.items() if name == "segfault" and drawn.state(*one) == "FAILED")
    lie(books, good, bad)
    assert kinds(soak_modules, told)[kind] > 0
