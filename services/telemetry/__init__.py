"""Feedback to the observatory control system (OCS): what the night's images are like, and what became of its commands.

`reports` (what is told), `telemetry` (taken for good, in order), `tables`, `gateway` (to the OCS by RabbitMQ), `receiver` (its
side), `settings`, `cli`.
"""
