"""Alembic's scripts of the table of what the night has seen."""
