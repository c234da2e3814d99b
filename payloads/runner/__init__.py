"""Executes the quanta of one job in one warm process: `python -m payloads.runner JOB.json`.

Reading order: chunk (the Butler that the quanta share), child (runs quanta in sequence), failures (why one failed), report
(segments and heartbeats), supervisor (the parent that survives its children).
"""
