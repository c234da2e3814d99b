"""Alembic's scripts of the alert service's tables."""
