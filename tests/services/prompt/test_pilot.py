"""A visit from within its process: what it tells of alerts whose frame others had told."""

from collections import Counter
from multiprocessing import Pipe

from backbone.messages.opened import MessageSettings
from backbone.messages.prompt import Store, WorkerOrder
from services.alerts.outbox import AlertOutbox
from services.prompt.pilot import Stages, _flown
from services.prompt.science import NullScience, Plan, Product


class Made(NullScience):
    """Has its product without frames."""

    def __init__(self, packets):
        self.packets = packets

    def process(self, frames, loaded, plan, on_stage):
        return Product(packets=self.packets, sources=9, quality={"snaps": 1})


def flown(home, packets):
    order = WorkerOrder(
        night="n1",
        worker="w",
        instrument="SimCam",
        detector=0,
        day_obs=20260101,
        skymap="SimCam",
        home=str(home),
        repo="none",
        store=Store(name="s", uri=str(home)),
        messages=MessageSettings(),
        deadline_s=60,
        beat_s=1,
        in_flight=1,
    )
    _, theirs = Pipe()
    return _flown(order, Made(packets), Plan(visit=7, exposures=()), theirs, Stages(theirs), Counter(), {})


def test_a_visit_that_is_done_anew_tells_its_alerts_once_and_counts_them_again(make_home, packet):
    home = make_home()
    done = [flown(home, [packet(1), packet(2)]) for _ in range(2)]
    assert [(one.alerts, one.quality) for one in done] == [(2, {"snaps": 1})] * 2


def test_a_replay_of_what_batch_has_told_tells_nothing_and_says_so(make_home, packet):
    home = make_home()
    with AlertOutbox.open(home) as outbox:
        outbox.add(7, 0, [packet(1)], origin="nightly_1/package/0")
    done = flown(home, [packet(1, snr=3.0), packet(2)])
    assert (done.state, done.alerts, done.sources) == ("succeeded", 0, 9)
    assert done.quality == {"snaps": 1, "alerts_withheld": 2, "told_by": "nightly_1/package/0"}
    with AlertOutbox.open(home) as outbox:
        assert outbox.published() == 1
        assert outbox.archive.get(2, withheld_from="prompt/n1")["diaSourceId"] == 2
