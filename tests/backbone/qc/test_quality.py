"""Metrics in, alarms out: on SQLite and PostgreSQL."""

import json
import math
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner

from backbone.qc import AlarmState, Metric, Quality, Threshold
from backbone.qc import tables as t
from backbone.qc.alarms import TABLE, AlarmError
from backbone.qc.cli import qc
from backbone.qc.metric import MetricError, subject_of, subject_text
from backbone.qc.tables import QualityTables
from backbone.qc.thresholds import ThresholdError, read_thresholds

HOUR = 3600.0


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/qc.sqlite3"
    return request.getfixturevalue("fresh_database")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quality(url, clock):
    made = Quality(QualityTables.open(url), clock)
    yield made
    made.close()


def noise(value, day=20260101, source="night1", **subject):
    subject = subject or {"detector": 3, "amplifier": "A"}
    return Metric(name="bias_noise_ratio", value=value, instrument="SimCam", day_obs=day, source=source, subject=subject)


def test_the_migrations_make_exactly_the_tables_of_the_program(fresh_database):
    tables = QualityTables.open(fresh_database)
    with tables.begin() as connection:
        ours = {"compare_type": True, "version_table": t.VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), t.metadata) == []
    tables.close()


def test_a_metric_is_written_once_and_the_newest_value_of_its_source_holds(quality):
    quality.record([noise(1.0), noise(1.0)], actor="test")
    quality.record([noise(1.1)], actor="test")
    quality.record([noise(1.05, source="night2")], actor="test")
    found = quality.metrics(name="bias_*", instrument="SimCam")
    assert {(m.value, m.source) for m in found} == {(1.1, "night1"), (1.05, "night2")}
    assert found[0].subject == {"detector": "3", "amplifier": "A"}
    assert quality.metrics(name="bias?noise") == []
    assert quality.metrics(first_day=20260102) == []


def test_a_crossing_raises_one_alarm_however_often_it_is_seen(quality, clock):
    (first,) = quality.record([noise(2.0)], actor="test")
    assert quality.record([noise(2.0)], actor="test") == []
    clock.now += HOUR
    (again,) = quality.record([noise(2.5, day=20260102, source="night2")], actor="test")
    assert again.id == first.id
    assert (again.count, again.value, again.first_at, again.last_at) == (2, 2.5, 1e9, 1e9 + HOUR)
    (other,) = quality.record([noise(2.0, detector=4, amplifier="A")], actor="test")
    assert other.id != first.id
    assert len(quality.alarms()) == 2
    assert "above 1.25" in again.words
    assert [e["event"] for e in quality.history(first.id)] == ["raise", "repeat"]


def test_a_later_value_within_the_band_clears_and_an_older_day_does_not(quality):
    quality.record([noise(2.0, day=20260105)], actor="test")
    quality.record([noise(1.0, day=20260104)], actor="test")
    assert len(quality.alarms()) == 1
    quality.record([noise(1.0, day=20260106)], actor="verify")
    assert quality.alarms() == []
    (cleared,) = quality.alarms(open_only=False)
    assert (cleared.state, cleared.cleared_by) == (AlarmState.CLEARED, "verify")
    (new,) = quality.record([noise(3.0, day=20260107)], actor="test")
    assert new.id != cleared.id


def test_what_could_not_be_measured_is_no_success(quality):
    (alarm,) = quality.record([noise(math.nan)], actor="test")
    assert "could not be measured" in alarm.words
    assert quality.metrics()[0].value is None


def test_an_acknowledged_alarm_does_not_escalate_and_another_does_again_and_again(quality, clock):
    (seen,) = quality.record([noise(2.0)], actor="test")
    (unseen,) = quality.record([noise(2.0, detector=9)], actor="test")
    assert quality.acknowledge(seen.id, actor="ana", why="cooling").state is AlarmState.ACKNOWLEDGED
    assert quality.acknowledge(seen.id, actor="ana").acknowledged_by == "ana"
    clock.now += 23 * HOUR
    assert quality.escalate() == []
    clock.now += 2 * HOUR
    assert [(a.id, a.state, a.level) for a in quality.escalate()] == [(unseen.id, AlarmState.ESCALATED, 1)]
    assert quality.escalate() == []
    clock.now += 25 * HOUR
    assert [a.level for a in quality.escalate()] == [2]
    assert quality.alarms()[0].id == unseen.id
    assert len([e for e in quality.history(seen.id) if e["event"] == "acknowledge"]) == 1


def test_a_person_may_clear_and_only_what_there_is(quality):
    (alarm,) = quality.record([noise(2.0)], actor="test")
    quality.clear(alarm.id, actor="ana", why="a moth")
    assert quality.clear(alarm.id, actor="ana", why="a moth").state is AlarmState.CLEARED
    with pytest.raises(AlarmError, match="is CLEARED"):
        quality.acknowledge(alarm.id, actor="ana")
    with pytest.raises(AlarmError, match="no alarm 999"):
        quality.clear(999, actor="ana", why="x")


@pytest.mark.parametrize("state", AlarmState)
@pytest.mark.parametrize("event", ["repeat", "acknowledge", "escalate", "clear"])
def test_every_pair_of_state_and_event_is_in_the_table_or_refused(state, event):
    legal = {
        AlarmState.RAISED: {"repeat", "acknowledge", "escalate", "clear"},
        AlarmState.ESCALATED: {"repeat", "acknowledge", "escalate", "clear"},
        AlarmState.ACKNOWLEDGED: {"repeat", "clear"},
        AlarmState.CLEARED: set(),
    }
    assert ((state, event) in TABLE) == (event in legal[state])


def test_writers_at_the_same_time_raise_one_alarm(url):
    errors = []

    def write(n):
        quality = Quality(QualityTables.open(url))
        try:
            quality.record([noise(2.0 + n, source=f"s{n}")], actor=f"w{n}")
        except Exception as error:
            errors.append(error)
        finally:
            quality.close()

    Quality(QualityTables.open(url)).close()
    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    quality = Quality(QualityTables.open(url))
    (alarm,) = quality.alarms()
    assert alarm.count == 4
    quality.close()


def test_ten_thousand_metrics_are_one_transaction(quality):
    many = [noise(1.0, detector=d, amplifier=f"C{a:02}") for d in range(189) for a in range(16)]
    assert quality.record(many, actor="test") == []
    with quality._tables.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.metric)).scalar_one() == 189 * 16


def test_thresholds_come_with_the_program_and_others_take_their_place_by_command(quality, tmp_path, url):
    assert {one.name for one in quality.thresholds()} == {one.name for one in read_thresholds()}
    path = tmp_path / "mine.yaml"
    path.write_text("thresholds: [{name: a, metric: 'x*', low: 1, escalate_after: 2h, why: because}]")
    quality.apply_thresholds(path, actor="ana")
    again = Quality(QualityTables.open(url))
    assert [(one.name, one.low, one.escalate_after) for one in again.thresholds()] == [("a", 1.0, 7200.0)]
    again.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thresholds: [{name: a, metric: x, hgih: 1, why: w}]", "did you mean 'high'"),
        ("thresholds: [{name: a, metric: x, why: w}]", "needs low or high"),
        ("thresholds: [{name: a, metric: x, low: 2, high: 1, why: w}]", "is above high"),
        ("thresholds: [{name: a, metric: x, low: 2, why: w}, {name: a, metric: x, low: 2, why: w}]", "named twice: a"),
        ("thresholds: []", "at least 1"),
        ("thresholds: [", "not readable as YAML"),
    ],
)
def test_a_wrong_file_of_thresholds_says_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ThresholdError, match=words):
        read_thresholds(path)


def test_a_threshold_is_about_metrics_by_glob_and_instrument():
    threshold = Threshold(name="a", metric="*_noise_ratio", instrument="Sim*", high=1.2, why="w")
    assert threshold.concerns(noise(1.0))
    assert not Threshold(name="a", metric="dark_*", high=1.2, why="w").concerns(noise(1.0))
    assert not Threshold(name="a", metric="*", instrument="LSSTCam", high=1.2, why="w").concerns(noise(1.0))
    assert threshold.crossing(noise(1.2)) == ""


def test_subjects_are_text_both_ways():
    assert subject_text({"detector": 3, "amplifier": "A"}) == "amplifier=A detector=3"
    assert subject_of("amplifier=A detector=3") == {"amplifier": "A", "detector": "3"}
    with pytest.raises(MetricError, match="blanks"):
        subject_text({"filter": "r 1"})


def test_commands_show_and_change_what_the_program_would(tmp_path):
    (tmp_path / "pachon.yaml").write_text("{}")
    quality = Quality.open(tmp_path)
    (alarm,) = quality.record([noise(2.0)], actor="test")
    run = CliRunner()
    home = ["--home", str(tmp_path)]
    listed = json.loads(run.invoke(qc, ["alarms", "--json", *home]).output)
    assert [one["id"] for one in listed] == [alarm.id]
    assert "bias_noise_ratio" in run.invoke(qc, ["metrics", "--name", "bias*", *home]).output
    done = run.invoke(qc, ["acknowledge", str(alarm.id), "--actor", "ana", "--reason", "cold", *home])
    assert "ACKNOWLEDGED by ana" in done.output
    assert run.invoke(qc, ["clear", str(alarm.id), "--reason", "over", *home]).exit_code == 0
    assert json.loads(run.invoke(qc, ["alarms", "--json", *home]).output) == []
    assert "master-noise" in run.invoke(qc, ["thresholds", *home]).output
    assert run.invoke(qc, ["escalate", *home]).exit_code == 0


def test_a_days_metrics_are_found_by_index_however_many_days_there_were(fresh_database):
    tables, seen = QualityTables.open(fresh_database), []
    days = "SELECT 'm', 'cam', 20260101 + g / 100, 'detector=' || g % 100, 's', 1, '', 0 FROM generate_series(1, 20000) g"
    with tables.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO qc_metric (name, instrument, day_obs, subject, source, value, unit, at) {days}"))
        connection.execute(sa.text("ANALYZE qc_metric"))
    sa.event.listen(tables._engine, "before_cursor_execute", lambda *about: seen.append(about[2:4]))
    one = Metric(name="m", value=2.0, instrument="cam", day_obs=20260150, source="s", subject={"detector": 3})
    quality = Quality(tables)
    quality.record([one], actor="tester")
    quality.metrics(instrument="cam", first_day=20260150, last_day=20260150)
    asked = [(text, given) for text, given in seen if text.startswith("SELECT qc_metric")]
    with tables.read() as connection:
        plans = ["\n".join(r[0] for r in connection.exec_driver_sql(f"EXPLAIN {text}", given)) for text, given in asked]
    assert len(plans) == 2
    assert all("ix_qc_metric_instrument_day_obs" in plan for plan in plans), plans
    tables.close()
