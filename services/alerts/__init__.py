"""Alerts: kept for good, and brought to each subscriber once and only once.

`packets` (their bytes), `archive` (where they are found again), `book` and `tables` (the database), `frames` (who tells what),
`outbox` (the way in), `collected` (what batch made), `transport` (the contract of the ways out), `database_transport`, `streams`
and `stream_reader` (RabbitMQ), `distributor` (outbox to broker), `follow` (a subscriber's side), `damaged` (packets that
are none), `subscribers`, `service` (all of it together), `cli`.
"""
