"""Alembic's scripts of the telemetry gateway's tables."""
