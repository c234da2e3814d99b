"""The filter service: users' streams, their counts, and that nothing is filtered twice."""

import dataclasses
import io

import fastavro
import pytest
import sqlalchemy as sa

from backbone.errors import PermanentError, TransientError
from services.alerts import tables as alert_tables
from services.alerts.damaged import all_damaged, damaged_of
from services.alerts.follow import follow
from services.alerts.outbox import AlertOutbox
from services.alerts.packets import encode, to_wire
from services.alerts.settings import AlertSettings
from services.alerts.transport import Delivered
from services.filters import tables as t
from services.filters.book import FILTERS_PER_USER, FilterBook, feed
from services.filters.cli import predefined
from services.filters.language import FilterRefused
from services.filters.run import Filtering


class Night:
    """Alerts, filters, and the effect that joins them."""

    def __init__(self, outbox, book, packet):
        self.outbox, self.book, self.packet = outbox, book, packet
        self.settings = AlertSettings()
        self.effect = Filtering(book, outbox.book, per_visit=20)

    def define(self, user, name, text):
        self.book.define(user, name, text, self.settings)

    def batch(self, first, count, **more):
        packets = [self.packet(n, snr=float(n), **more) for n in range(first, first + count)]
        self.outbox.add(more.get("visit", 7), first, packets)
        return [Delivered(n, to_wire(encode(p).avro)) for n, p in zip(range(first, first + count), packets, strict=True)]

    def sent(self, user):
        rows = sa.select(alert_tables.outbox.c.alert).where(alert_tables.outbox.c.stream == feed(user))
        return [row.alert for row in self.outbox.book.all(rows.order_by(alert_tables.outbox.c.position))]


@pytest.fixture(params=["sqlite", "postgresql"])
def night(request, make_home, packet, tmp_path):
    url = request.getfixturevalue("fresh_database") if request.param == "postgresql" else "sqlite:///services.sqlite3"
    home = make_home(alerts={"database": url})
    with AlertOutbox.open(home) as outbox:
        book = FilterBook.open(url if "postgresql" in url else f"sqlite:///{home}/services.sqlite3")
        yield Night(outbox, book, packet)
        book.close()


def test_user_gets_what_one_of_its_filters_passes_once(night):
    night.define("ana", "bright", "diaSource.snr >= 4")
    night.define("ana", "middling", "diaSource.snr > 2 and diaSource.snr < 6")
    night.define("ben", "odd", "diaSource.band == 'i'")
    night.effect.apply(night.batch(1, 6))
    assert night.sent("ana") == [3, 4, 5, 6]
    assert night.sent("ben") == []
    assert night.effect.position() == 6


def test_at_most_twenty_alerts_of_a_visit_go_to_a_user_and_the_rest_is_counted(night):
    night.define("ana", "all", "diaSource.snr > 0")
    for first in (1, 16, 31):
        night.effect.apply(night.batch(first, 15))
    night.effect.apply(night.batch(46, 5, visit=8))
    assert night.sent("ana") == [*range(1, 21), *range(46, 51)]
    assert night.book.sent("ana") == [(7, 20, 25), (8, 5, 0)]


def test_batch_given_twice_is_filtered_once(night):
    """As after a crash between the effect and its acknowledgement, or with two filter services at once."""
    night.define("ana", "all", "diaSource.snr > 0")
    batch = night.batch(1, 5)
    night.effect.apply(batch)
    with pytest.raises(TransientError, match="another service filters"):
        Filtering(night.book, night.outbox.book, per_visit=20).apply(batch)
    assert night.sent("ana") == [1, 2, 3, 4, 5]
    assert night.book.sent("ana") == [(7, 5, 0)]


def _missing_fields(body):
    """A record of the wire's schema number whose diaSource has its first field only."""
    source = {"type": "record", "name": "s", "fields": [{"name": "diaSourceId", "type": "long"}]}
    whole = {
        "type": "record",
        "name": "a",
        "fields": [{"name": "diaSourceId", "type": "long"}, {"name": "diaSource", "type": source}],
    }
    out = io.BytesIO(body[:5])
    out.seek(5)
    fastavro.schemaless_writer(out, fastavro.parse_schema(whole), {"diaSourceId": 3, "diaSource": {"diaSourceId": 3}})
    return out.getvalue()


DAMAGE = {
    "nothing left": (lambda body: b"", "message of 0 bytes"),
    "cut": (lambda body: body[: len(body) // 2], "not Avro of"),
    "another schema": (lambda body: b"\0\0\0\0\x07" + body[5:], "begins with 0000000007"),
    "no Avro": (lambda body: body[:5] + b"\xff" * 40, "not Avro of"),
    "missing fields": (_missing_fields, "not Avro of"),
    "too long": (lambda body: body + b"more", "4 bytes are left over"),
    "id of another source": (lambda body: body[:5] + bytes([2 * 9]) + body[6:], "diaSource.diaSourceId is 3"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_packet_is_set_aside_once_and_the_others_are_filtered(night, damage, caplog):
    change, words = DAMAGE[damage]
    night.define("ana", "all", "diaSource.snr > 0")
    batch = night.batch(1, 5)
    batch[2] = dataclasses.replace(batch[2], body=change(batch[2].body))
    night.effect.apply(batch)
    assert night.sent("ana") == [1, 2, 4, 5]
    assert night.book.sent("ana") == [(7, 4, 0)]
    assert night.effect.position() == 5
    with pytest.raises(TransientError, match="another service filters"):
        night.effect.apply(batch)
    night.effect.apply(night.batch(6, 1))
    (found,) = all_damaged(night.outbox.book)
    assert (found.subscriber, found.stream, found.position, found.alert) == ("filters", "alerts", 3, 3)
    assert words in found.reason
    assert damaged_of(night.outbox.book) == {"alerts": 1}
    assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["ERROR"]


def test_packet_of_an_alert_that_was_not_promised_there_reaches_nobody(night):
    """Its bytes are in order: without the check a user would be sent alert 1 twice, or one that there is not."""
    night.define("ana", "all", "diaSource.snr > 0")
    batch = night.batch(1, 4)
    batch[1] = dataclasses.replace(batch[1], body=batch[0].body)
    batch[2] = dataclasses.replace(batch[2], body=to_wire(encode(night.packet(99)).avro))
    night.effect.apply(batch)
    assert night.sent("ana") == [1, 4]
    assert [(one.position, one.alert) for one in all_damaged(night.outbox.book)] == [(2, 2), (3, 3)]


def test_batch_of_nothing_but_damage_is_gone_past(night):
    night.define("ana", "all", "diaSource.snr > 0")
    night.effect.apply([dataclasses.replace(one, body=b"") for one in night.batch(1, 3)])
    assert (night.sent("ana"), night.effect.position()) == ([], 3)
    assert damaged_of(night.outbox.book) == {"alerts": 3}


def test_filter_that_changes_holds_for_what_comes_after(night):
    night.define("ana", "mine", "diaSource.snr > 100")
    night.effect.apply(night.batch(1, 3))
    night.define("ana", "mine", "diaSource.snr > 0")
    night.effect.apply(night.batch(4, 2))
    night.book.remove("ana", "mine")
    night.effect.apply(night.batch(6, 2))
    assert night.sent("ana") == [4, 5]
    assert len(night.book.all(sa.select(t.filter_))) == 2  # what was in force can be told


def test_hundred_users_may_have_filters_and_one_more_may_not(night):
    for n in range(100):
        night.define(f"user{n}", "all", "diaSource.snr > 0")
    with pytest.raises(PermanentError, match="at most 100"):
        night.define("onemore", "all", "diaSource.snr > 0")
    night.define("user5", "second", "diaSource.snr > 1")
    night.effect.apply(night.batch(1, 30))
    assert all(night.sent(f"user{n}") == list(range(1, 21)) for n in range(100))


def test_number_of_a_users_filters_is_bounded_and_mistakes_are_named(night):
    for n in range(FILTERS_PER_USER):
        night.define("ana", f"f{n}", "diaSource.snr > 0")
    with pytest.raises(PermanentError, match="remove one first"):
        night.define("ana", "more", "diaSource.snr > 0")
    with pytest.raises(FilterRefused, match="did you mean"):
        night.define("ana", "f1", "diaSource.snrr > 0")
    with pytest.raises(PermanentError, match="did you mean 'f1'"):
        night.book.remove("ana", "ff1")
    with pytest.raises(PermanentError, match="cannot be a subscriber's name"):
        night.define("../etc", "f", "diaSource.snr > 0")


def test_filters_run_as_subscriber_of_the_database(service, packet, tmp_path):
    """Of either transport: what passes can be read from the user's stream."""
    import threading

    book = FilterBook.open(f"sqlite:///{service.home}/services.sqlite3")
    book.define("ana", "even", "diaSource.snr in [2, 4, 6]", AlertSettings())
    secret = service.subscribe("filters")
    mine = service.subscribe("ana", feed("ana"))
    service.outbox.add(7, 1, [packet(n, snr=float(n)) for n in range(1, 8)])
    service.distribute()
    effect = Filtering(book, service.outbox.book, per_visit=20)
    follow(
        service.transport,
        effect,
        stream="alerts",
        name=f"filters{service.suffix}",
        secret=secret,
        stop=threading.Event(),
        until=7,
    )
    service.distribute()
    with service.reader("ana", mine, stream=feed("ana")) as reader:
        found = []
        while len(found) < 3:
            found += reader.take(10, 60)
    assert [d.position for d in found] == [1, 2, 3]


def test_every_predefined_filter_can_be_used(night):
    for name, text in predefined().items():
        night.define("ana", name, text)
    night.effect.apply(night.batch(1, 3))


def test_tables_are_those_of_the_migrations(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with FilterBook.open(f"sqlite:///{tmp_path}/book.sqlite3").read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "fl_version"})
        assert compare_metadata(context, t.metadata) == []
