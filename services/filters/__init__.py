"""Filters of users: small expressions on what is in a packet, and nothing else; what passes goes to the user's own stream.

`language` (text to a checked tree), `kinds` (Avro's schema as types), `compiler` (tree to a function), `functions`, `filter`,
`tables` and `book` (whose filters there are), `run` (as a subscriber of the full stream), `predefined.yaml`, `cli`.
"""
