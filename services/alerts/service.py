"""The alert service of a home, put together by its settings."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path

from backbone.errors import PermanentError
from services.alerts.book import FULL
from services.alerts.broker_users import BrokerUsers
from services.alerts.database_transport import DatabaseTransport
from services.alerts.distributor import Distributor
from services.alerts.outbox import AlertOutbox
from services.alerts.settings import AlertSettings
from services.alerts.subscribers import Subscribers
from services.alerts.transport import Transport
from services.broker import Broker
from services.settings import section


class AlertService(AbstractContextManager["AlertService"]):
    """Everything about alerts; what is not used is not opened."""

    def __init__(self, home: Path | str) -> None:
        self.home = Path(home)
        self.settings = section(self.home, "alerts", AlertSettings)
        self.outbox = AlertOutbox.open(self.home)
        self.subscribers = Subscribers(self.outbox.book)
        self._users = BrokerUsers(Broker(self.settings.broker, self.home)) if self.settings.transport == "rabbitmq" else None

    def __exit__(self, *_: object) -> None:
        self.outbox.close()

    def transport(self) -> Transport:
        """A new one of the kind that the settings name; the caller's to close."""
        if self._users is None:
            return self.archive_transport()
        from services.alerts.streams import StreamTransport  # rstream is for those who have a broker

        return StreamTransport(Broker(self.settings.broker, self.home), keep_bytes=self.settings.keep_bytes)

    def archive_transport(self) -> Transport:
        """Reads the archive itself, whatever the broker has let go of."""
        return DatabaseTransport(self.outbox.book, self.outbox.archive)

    def distributor(self, transport: Transport) -> Distributor:
        """From the outbox to this transport."""
        return Distributor(self.outbox.book, self.outbox.archive, transport)

    def subscribe(self, name: str, *, actor: str, stream: str = FULL) -> str:
        """A new subscriber, at the broker too; its secret. Where the broker fails, `renew` makes it good."""
        secret = self.subscribers.add(name, actor=actor, now=time.time(), stream=stream)
        self._tell_broker(name, secret, stream)
        return secret

    def renew(self, name: str) -> str:
        """A new secret in the place of the old one."""
        stream, secret = self.subscribers.stream_of(name), self.subscribers.renew(name)
        self._tell_broker(name, secret, stream)
        return secret

    def unsubscribe(self, name: str) -> None:
        """Whoever is gone is let in nowhere."""
        self.subscribers.stream_of(name)
        if self._users is not None:
            self._users.remove(name)
        self.subscribers.remove(name)

    def _tell_broker(self, name: str, secret: str, stream: str) -> None:
        if self._users is None:
            return
        try:
            self._users.put(name, secret, stream)
        except PermanentError:
            self.subscribers.remove(name)
            raise
