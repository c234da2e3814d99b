"""A night of prompt processing as it goes on: who is armed, what is due, what is late, what is left to offline.

Reading order: states (life cycles), books (the prompt ledger, read and written), lock, crew (workers in the pool), reports_in
(what workers say), supervisor (one idempotent round), loop (the process), nights (the public face), latency, live, reports and
page, late (what is left to offline), cli.
"""
