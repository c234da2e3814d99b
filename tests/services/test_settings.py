"""Settings of services: their own key of pachon.yaml, and mistakes in it."""

import pytest

from backbone.errors import TransientError
from deploy.servers import background, servers
from services.alerts.settings import AlertSettings
from services.broker import Broker, BrokerSettings, keep_secret, secret_in
from services.settings import ServicesUnusable, section
from workflow.settings import ServerSettings, Settings


def test_home_that_says_nothing_of_a_service_has_its_defaults(make_home):
    assert section(make_home(), "alerts", AlertSettings).transport == "database"


def test_mistakes_name_their_place_and_the_nearest_known_key(make_home):
    with pytest.raises(ServicesUnusable, match=r"services: alerts: .*did you mean 'transport'"):
        section(make_home(alerts={"transprt": "rabbitmq"}), "alerts", AlertSettings)
    with pytest.raises(ServicesUnusable, match="postgresql\\+psycopg2"):
        section(make_home(alerts={"database": "postgresql://here"}), "alerts", AlertSettings)
    with pytest.raises(ServicesUnusable, match="pachon init"):
        section(make_home() / "elsewhere", "alerts", AlertSettings)


@pytest.mark.parametrize(
    "text", ["services: 5", "- a\n- b", "services: {alerts: [1]}", "services: {alerts: {broker: x}}", "a: ["]
)
def test_settings_of_a_wrong_shape_are_refused(make_home, text):
    home = make_home()
    (home / "pachon.yaml").write_text(text)
    with pytest.raises(ServicesUnusable):
        section(home, "alerts", AlertSettings)


def test_secret_that_others_can_read_is_not_used(tmp_path):
    keep_secret(tmp_path / "word", "open sesame")
    assert secret_in(tmp_path / "word") == "open sesame"
    (tmp_path / "word").chmod(0o644)
    with pytest.raises(ServicesUnusable, match="chmod 600"):
        secret_in(tmp_path / "word")


def test_broker_that_was_never_started_says_how_to_start_it(tmp_path):
    broker = Broker(BrokerSettings(), tmp_path)
    for ask in (lambda: broker.port("stream"), broker.tls, broker.password):
        with pytest.raises(TransientError, match="pachon up"):
            ask()


def test_what_the_settings_ask_for_is_started(tmp_path):
    plain = Settings(home=tmp_path)
    plain.write()
    always = set(background(plain))
    assert not always & {"alerts", "filters", "telemetry"}
    asked = Settings(
        home=tmp_path,
        servers=ServerSettings(rabbitmq=True),
        services={"alerts": {"transport": "rabbitmq"}, "telemetry": {"transport": "rabbitmq"}},
    )
    asked.write()
    assert set(background(asked)) - always == {"alerts", "filters", "telemetry"}
    assert [server.streams for server in servers(tmp_path, with_postgres=False)] == [True]
    assert set(background(Settings(home=tmp_path, services={"alerts": {}}))) - always == {"filters"}
