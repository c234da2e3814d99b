"""Rules of one's own: these files at that endpoint by then (stage-in, stage-out). Idempotent by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.cohorts import share_policies
from backbone.errors import ConflictError, PermanentError
from backbone.files import RuleProgress
from backbone.flow import rate_bytes_per_s
from backbone.history import note
from backbone.pending import UNWANTED, request

_ASKED = (
    "SELECT rf.file AS file, rf.target AS target, r.priority AS priority, r.deadline AS deadline"
    " FROM bb_rule_file rf JOIN bb_rule r ON r.id = rf.rule WHERE rf.rule = :rule"
)
_OK = (
    "UPDATE bb_rule_file SET ok = true WHERE rule = :rule AND EXISTS (SELECT 1 FROM bb_replica p"
    " WHERE p.file = bb_rule_file.file AND p.endpoint = bb_rule_file.target AND p.state = 'AVAILABLE')"
)
# Copies that came for a rule, and that nothing else asks for.
_EXPIRE = f"""
UPDATE bb_replica SET due = :due, reason = :why WHERE endpoint = :target AND state = 'AVAILABLE' AND NOT origin AND due IS NULL
 AND file {{ids}} AND EXISTS (SELECT 1 FROM bb_file f WHERE f.id = bb_replica.file AND {UNWANTED.format(endpoint=":target")})
"""
_CANCEL = f"""
DELETE FROM bb_transfer WHERE target = :target AND state <> 'RUNNING' AND file {{ids}}
 AND EXISTS (SELECT 1 FROM bb_file f WHERE f.id = bb_transfer.file AND {UNWANTED.format(endpoint=":target")})
 AND NOT EXISTS (SELECT 1 FROM bb_replica b
  WHERE b.file = bb_transfer.file AND b.endpoint = :target AND b.state IN ('BAD', 'LOST'))
"""
_PROGRESS = """
SELECT r.name, r.target, r.files, count(rf.file) AS open, sum(f.size) AS bytes,
 sum(CASE WHEN x.state = 'STUCK' OR x.state IS NULL THEN 1 ELSE 0 END) AS stuck,
 min(CASE WHEN x.state = 'STUCK' THEN x.reason END) AS stuck_reason, min(x.reason) AS reason
FROM bb_rule r
LEFT JOIN bb_rule_file rf ON rf.rule = r.id AND NOT rf.ok
LEFT JOIN bb_file f ON f.id = rf.file
LEFT JOIN bb_transfer x ON x.file = rf.file AND x.target = rf.target
WHERE r.name {names}
GROUP BY r.name, r.target, r.files
"""


def require(
    catalog: Catalog,
    name: str,
    keys: Iterable[str],
    target: int,
    *,
    by: float,
    priority: int,
    actor: str,
    now: float,
) -> None:
    """Ask for these files at endpoint number `target`. The same again changes nothing, or renews what was released; ConflictError
    if the name stands for other files; UnknownFile for a key that is not registered.
    """
    asked = sorted(set(keys))
    digest = hashlib.sha256("\n".join([str(target), *asked]).encode()).hexdigest()
    with catalog.begin() as connection:
        share_policies(catalog, connection)
        row = {"name": name, "target": target, "priority": priority, "deadline": by, "actor": actor, "created": now}
        first = catalog.insert_first(connection, t.rule, {**row, "files": len(asked), "digest": digest})
        rule = connection.execute(sa.select(t.rule).where(t.rule.c.name == name).with_for_update()).one()
        if rule.digest != digest:
            raise ConflictError(f"rule {name} asks for other files, or for another endpoint: take a new name, or release it")
        if not first and rule.released is None:
            return
        connection.execute(t.rule.update().where(t.rule.c.id == rule.id).values(released=None, deadline=by, priority=priority))
        numbers = catalog.file_ids(connection, asked)
        catalog.insert_many(
            connection, t.rule_file, [{"rule": rule.id, "file": n, "target": target, "ok": False} for n in numbers.values()]
        )
        request(connection, _ASKED, {"rule": rule.id, "now": now})
        connection.execute(sa.text(_OK), {"rule": rule.id})
        note(connection, at=now, actor=actor, what="required", endpoint=target, why=f"{name}: {len(asked)} files")


def release(catalog: Catalog, name: str, *, actor: str, now: float, grace_s: float) -> bool:
    """End a rule: what is still under way for it alone is called off, copies made for it may be deleted after the grace period
    unless something else asks for them. Whether there was such a rule in force.
    """
    with catalog.begin() as connection:
        rule = connection.execute(
            sa.select(t.rule).where(t.rule.c.name == name, t.rule.c.released.is_(None)).with_for_update()
        ).one_or_none()
        if rule is None:
            return False
        mine = sa.select(t.rule_file.c.file).where(t.rule_file.c.rule == rule.id).order_by(t.rule_file.c.file).with_for_update()
        files = connection.execute(mine).scalars().all()
        connection.execute(t.rule_file.delete().where(t.rule_file.c.rule == rule.id))
        connection.execute(t.rule.update().where(t.rule.c.id == rule.id).values(released=now))
        let_go(catalog, connection, files, rule.target, now=now, due=now + grace_s, why=f"rule {name} is released")
        note(connection, at=now, actor=actor, what="released", endpoint=rule.target, why=name)
    return True


def let_go(
    catalog: Catalog, connection: Connection, files: Sequence[int], target: int, *, now: float, due: float, why: str
) -> None:
    """Copies of these files that nothing asks for at the endpoint any more: called off, or due for deletion."""
    parameters = {"ids": catalog.id_list(files), "target": target, "now": now}
    connection.execute(sa.text(_CANCEL.format(ids=catalog.in_list)), parameters)
    connection.execute(sa.text(_EXPIRE.format(ids=catalog.in_list)), {**parameters, "due": due, "why": why})


def progress(catalog: Catalog, names: Iterable[str], *, now: float) -> dict[str, RuleProgress]:
    """How far these rules are, in one query over what is still open; PermanentError for a name there is no rule of."""
    asked = list(dict.fromkeys(names))
    condition, given = _named(catalog, asked)
    with catalog.read() as connection:
        rows = connection.execute(sa.text(_PROGRESS.format(names=condition)), {"names": given}).all()
        rates = {target: rate_bytes_per_s(connection, target, now=now) for target in {row.target for row in rows if row.open}}
    found = {row.name: _progress(row, rates.get(row.target, 0.0)) for row in rows}
    for name in asked:
        if name not in found:
            raise PermanentError(f"the backbone has no rule {name!r}; ask for it with `require` first")
    return found


def _named(catalog: Catalog, names: list[str]) -> tuple[str, Any]:
    if catalog.is_postgresql:
        return "= ANY(CAST(:names AS TEXT[]))", names
    return "IN (SELECT value FROM json_each(:names))", json.dumps(names)


def _progress(row: Any, rate: float) -> RuleProgress:
    left = int(row.bytes or 0)
    stuck = int(row.stuck or 0) if row.open else 0
    return RuleProgress(
        name=row.name,
        total=row.files,
        ok=row.files - row.open,
        replicating=row.open - stuck,
        stuck=stuck,
        bytes=left,
        eta_s=0.0 if not row.open else left / rate if rate else None,
        first_reason=row.stuck_reason or row.reason or "",
    )
