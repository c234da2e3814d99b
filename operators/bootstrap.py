"""Makes what a local Airflow needs before its first start: tables, roles, users, pools (`python -m operators.bootstrap`).

Airflow's own commands would be six processes, each importing everything for seconds; this is one. It reads its request (made by
deploy/airflow.py) from standard input as JSON. Safe to run again: what exists is kept, roles gain what the request says,
passwords are reset to the request's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

Permission = tuple[str, str]


def migrate() -> None:
    """Create or migrate the tables of Airflow and of its auth manager."""
    from airflow.utils.db import initdb

    initdb()


def permissions_of(role: dict[str, Any], builtin: dict[str, Iterable[Permission]]) -> list[Permission]:
    """All permissions of a role: its own, after those of the role it extends."""
    inherited = list(builtin[role["extends"]]) if "extends" in role else []
    return inherited + [(action, resource) for action, resource in role.get("permissions", [])]


def make_roles_and_users(roles: dict[str, Any], users: list[dict[str, str]]) -> None:
    """Sync Airflow's roles and ours, then make the users or reset their passwords."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        builder.add_permissions(update_perms=True)
        manager.sync_roles()
        builtin = {entry["role"]: entry["perms"] for entry in manager.ROLE_CONFIGS}
        builtin["Admin"] = []
        manager.bulk_sync_roles([{"role": name, "perms": permissions_of(role, builtin)} for name, role in roles.items()])
        for user in users:
            _make_user(manager, user)


def _make_user(manager: Any, user: dict[str, str]) -> None:
    name = user["name"]
    known = manager.find_user(username=name)
    if known is not None:
        manager.reset_password(known.id, user["password"])
        return
    role = manager.find_role(user["role"])
    made = manager.add_user(name, name, "Pachón", f"{name}@localhost", role, password=user["password"])
    if not made:
        raise RuntimeError(f"user {name} could not be made: see the auth manager's message above")


def make_pools(pools: dict[str, dict[str, Any]]) -> None:
    """Make the pools or bring their sizes to what the request says."""
    from airflow.models.pool import Pool

    for name, pool in pools.items():
        Pool.create_or_update_pool(name, pool["slots"], pool["description"], include_deferred=False)


def main() -> None:
    """Do all of the request."""
    request = json.load(sys.stdin)
    migrate()
    make_roles_and_users(request["roles"], request["users"])
    make_pools(request["pools"])


if __name__ == "__main__":
    main()
