"""Alembic's scripts of the filters' tables."""
