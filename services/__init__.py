"""Long-running programs that are neither jobs nor DAGs: prompt ingest, alert distribution and filtering, telemetry gateway."""
