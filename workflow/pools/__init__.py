"""Places where jobs run. Reading order: pool (the contract), local (processes of this machine), fake (for tests), opened.

One suite, tests/workflow/pool_contract, holds every kind to the contract.
"""
