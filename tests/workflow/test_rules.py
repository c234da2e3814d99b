"""What becomes of failures, by rules alone; hosts that fail, by a ledger of both kinds."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from workflow import hosts
from workflow.errors import ProductionError
from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger import tables as t
from workflow.production import Production
from workflow.rules import Case, Hosts, Memory, Policy, Retries, Rule, Verdict
from workflow.states import FailureClass, JobState

OOM = FailureClass.OUT_OF_MEMORY


def case(failure=FailureClass.SCIENCE, failures=1, memory_mb=1000, **more):
    said = {"step": "frames", "label": "isr", "error": "ValueError: bad pixel\ntraceback"}
    return Case(failure=failure, failures=failures, memory_mb=memory_mb, **{**said, **more})


def policy(*rules, retries=None):
    return Policy(retries=retries or Retries(), memory_factor=2.0, memory_max_mb=3000, rules=rules)


@pytest.mark.parametrize("failure", list(FailureClass))
def test_each_class_has_its_own_budget(failure):
    budget = Retries().budget(failure)
    memory = 1000
    for n in range(1, budget + 1):
        assert policy().judge(case(failure, n, memory))[0].action == ("grow" if failure is OOM else "retry")
    assert policy().judge(case(failure, budget + 1))[0] == Verdict(action="fail")


def test_memory_grows_by_its_factor_to_its_cap_and_no_further():
    assert policy().judge(case(OOM))[0] == Verdict(action="grow", memory_mb=2000)
    assert policy().judge(case(OOM, memory_mb=2000))[0] == Verdict(action="grow", memory_mb=3000)
    assert policy().judge(case(OOM, memory_mb=3000))[0] == Verdict(action="fail")
    assert policy().judge(case(FailureClass.SIGNAL))[0] == Verdict(action="retry")  # a segfault is no lack of memory
    rule = Rule(failure=OOM, label="coadd*", memory=Memory(factor=1.5, max_mb=2500))
    assert policy(rule).judge(case(OOM, label="coaddAll"))[0] == Verdict(action="grow", memory_mb=1500)
    assert policy(rule).judge(case(OOM))[0].memory_mb == 2000


def test_the_first_rule_that_matches_counts():
    rules = (
        Rule(label="isr", error="bad (pixel|column)", retries=2),
        Rule(failure="science", retries=9),
    )
    assert policy(*rules).judge(case(failures=2))[0].action == "retry"
    assert policy(*rules).judge(case(failures=3))[0].action == "fail"
    assert policy(*rules).judge(case(failures=9, label="coadd"))[0].action == "retry"
    assert policy(*rules).judge(case(failures=9, error="x\nbad pixel"))[0].action == "retry"  # the first line alone is looked at


def test_a_passive_rule_changes_nothing_and_says_what_it_would_do():
    passive = Rule(failure="science", retries=3, passive=True)
    verdict, opinions = policy(passive).judge(case())
    assert verdict == Verdict(action="fail")
    assert [(o.rule, str(o.would)) for o in opinions] == [(0, "retry")]
    agreeing = Rule(failure="science", retries=0, passive=True)
    assert policy(agreeing).judge(case())[1] == []
    behind = policy(Rule(failure="science", retries=1), passive)
    assert behind.judge(case()) == (Verdict(action="retry"), [])  # never reached


def test_a_steps_budgets_go_over_the_productions_class_by_class():
    wide = Retries(signal=4, science=2)
    assert wide.under(Retries(science=0)) == Retries(signal=4, science=0)
    assert wide.under(None) is wide


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rules": [{"failur": "science"}]}, "did you mean 'failure'?"),
        ({"rules": [{"failure": "sciense"}]}, "Input should be"),
        ({"rules": [{"error": "(", "retries": 1}]}, "is no regular expression"),
        ({"rules": [{"step": "fraems"}]}, "did you mean 'frames'?"),
        ({"hosts": {"failures": 0}}, "greater than or equal to 1"),
        ({"memory": {"factor": 1}}, "greater than 1"),
    ],
)
def test_a_mistake_in_the_rules_is_named(more, message):
    text = {"production": "p", "kind": "cpp", "steps": [{"name": "frames", "pipeline": "resource://x.yaml"}], **more}
    with pytest.raises(ProductionError, match=message.replace("?", r"\?")):
        Production.load(text)


class Site:
    """Jobs on hosts, in a ledger."""

    def __init__(self, url):
        self.ledger, self.now = Ledger.open(url), 1000.0
        with self.ledger.begin() as c:
            row = {"name": "c", "production": "p", "kind": "cpp", "definition": {}, "parameters": {}, "digest": "", "owner": "o"}
            c.execute(t.campaign.insert().values(**row, access="public", state="RUNNING", created=0.0))

    def job(self, host, *, fails="infrastructure", state=JobState.RUNNING):
        row = {
            "id": str(uuid.uuid4()),
            "campaign": "c",
            "step": "s",
            "generation": 1,
            "group_": "all",
            "site": "ncsa",
            "owner": "o",
        }
        row |= {"state": state.value, "memory_mb": 1, "time_limit_s": 1.0, "quanta": 1, "created": self.now, "lease_expires": 0.0}
        with self.ledger.begin() as c:
            c.execute(t.job.insert().values(**row, host=host))
        if fails:
            context = SimpleNamespace(clock=SimpleNamespace(now=lambda: self.now), ledger=self.ledger)
            outcome = Outcome(quantum=str(uuid.uuid4()), state="failed", failure_class=fails, error="disk full\nmore")
            with self.ledger.begin() as c:
                for _ in range(2):  # twice is once
                    hosts.note(c, SimpleNamespace(context=context, name="c"), SimpleNamespace(**row), [outcome])

    def avoided(self, **rules):
        with self.ledger.read() as c:
            return hosts.avoided(c, "ncsa", Hosts(**{"failures": 2, "within_s": 100, "avoid_s": 300, **rules}), self.now)


@pytest.fixture
def site(ledger_url):
    made = Site(ledger_url)
    yield made
    made.ledger.close()


def test_a_host_that_fails_again_and_again_is_avoided_for_a_while(site):
    for host in ("a", "b", "c"):
        site.job(host, fails=None)
    site.job("a")
    assert site.avoided() == ()
    site.now += 50
    site.job("a")
    site.job("b", fails="science")
    site.job("b", fails="science")  # a payload's own error is not its host's
    assert site.avoided() == ("a",)
    site.now += 299
    assert site.avoided() == ("a",)
    site.now += 2
    assert site.avoided() == ()


def test_failures_far_apart_or_of_a_silent_pool_are_not_the_hosts(site):
    for host in ("a", "b", "c", "d"):
        site.job(host, fails=None)
    site.job("a")
    site.now += 101
    site.job("a")
    site.job("b", state=JobState.LOST)
    site.job("b", state=JobState.LOST)
    assert site.avoided() == ()


def test_never_more_than_half_of_a_sites_hosts_are_avoided(site):
    for host in ("a", "b", "c"):
        site.job(host)
        site.job(host)
    site.job("b")
    assert site.avoided() == ("b",)
