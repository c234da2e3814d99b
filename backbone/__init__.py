"""Data: endpoints that hold objects, the catalog of what is where, policies of what must be where, and what our Butlers share.

Reading order: errors, endpoint (the contract), folder, s3, butler; backbone (the public face), files, tables, catalog, cohorts,
register, put; policy, policy_plan, policy_change, ages, expiry, explain; pending, rules, transfers, flow, mover; replicas,
identity, sweep, reading, scrub, quarantine, repair, manifest, recover; cache, archive; access, history; usage, page, cli,
cli_look, cli_care; garbage (Python's).
"""
