"""The ledger's history as Alembic migrations."""
