"""Places where jobs run. Reading order: pool (the contract), local (processes of this machine), fake (for tests); of HTCondor
settings, bindings, schedd (what is asked), description, dispatches (what was sent), events, ads, holds, htcondor, why; warm and
workers (jobs that stay for others); opened.

One suite, tests/workflow/pool_contract, holds every kind to the contract.
"""
