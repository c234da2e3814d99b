"""Opens the ledger: a database with migrations of its own, and an actor on every action."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import Connection

from backbone.database import Database
from workflow.ledger import tables


class Ledger(Database):
    """A ledger that is open."""

    noun = "ledger"
    migrations = Path(__file__).parent.parent / "migrations"
    version_table = "alembic_version"
    upgrade_lock = 7_224_661


def record(connection: Connection, *, at: float, actor: str, campaign: str, what: str, why: str = "") -> None:
    """One row of the audit, in the transaction of what it is about."""
    connection.execute(tables.action.insert().values(at=at, actor=actor, campaign=campaign, what=what, why=why))
