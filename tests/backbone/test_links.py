"""What a link may carry, and when it is let alone."""

from backbone.links import Breaker, Pace


class Clock:
    """Monotonic time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_pace_lets_through_what_the_link_may_carry():
    clock = Clock()
    pace = Pace(1000.0, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        pace.spend(100)
    assert 9.5 <= clock.now <= 10.0
    assert Pace(None).block_bytes > pace.block_bytes


def test_breaker_opens_after_three_failures_in_a_row_and_closes_with_the_first_success():
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed("no")
    breaker.failed("no")
    breaker.passed()
    for _ in range(3):
        assert breaker.may_take(9) == 9
        breaker.failed("no answer")
    assert (breaker.is_open, breaker.may_take(9), breaker.reason) == (True, 0, "no answer")
    clock.sleep(1)
    assert [breaker.may_take(9), breaker.may_take(9)] == [1, 0], "one asks"
    breaker.passed()
    assert breaker.may_take(9) == 9
