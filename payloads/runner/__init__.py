"""Executes the quanta of one job in one warm process: `python -m payloads.runner JOB.json`.

Reading order: supervisor (the parent that survives its children), worker (one that stays for further jobs), child (runs quanta
in sequence), frames (what they say to each other), quanta (of a graph), chunk (the Butler that they share) and products (how
it writes), null (the payload that does nothing), failures (why one failed), meter (what one took), usage (the same in a
task's metadata), report (segments and heartbeats), software (what a job says that it runs).
"""
