"""The history of the catalog's tables as Alembic migrations."""
