"""From the tree of a filter to a function of a packet.

Types are checked on the way: a filter that compiles cannot fail on a packet of its schema, and its time is bounded by its size
and the packet's.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.filters.functions import AGGREGATES, FUNCTIONS
from services.filters.kinds import NULL, NUMBER, TEXT, TRUTH, Kind
from services.filters.language import constant, refused

Packet = Mapping[str, Any]
Evaluate = Callable[[Packet], Any]
MAX_LIST_NODES = 40
"""Of all that is evaluated for each item of a list: a packet of 1 MB has 3,000 earlier sources at most."""
_NOWHERE: tuple[str, ...] = ()
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Typed:
    """A part of a filter: what it gives, and how."""

    kind: Kind
    evaluate: Evaluate


@dataclass(frozen=True)
class Scope:
    """What names mean: fields of the packet, or inside of a list's condition those of its items."""

    record: Kind
    in_list: bool = False


def compiled(node: ast.expr, scope: Scope) -> Typed:
    """A node as a function."""
    known, value = constant(node)
    if known:
        return _constant(node, value)
    if type(node) not in _NODES:
        raise refused(node, "a list stands after `in` and nowhere else")
    return _NODES[type(node)](node, scope)


def truth(node: ast.expr, scope: Scope, what: str) -> Evaluate:
    """A node that must be a condition."""
    found = compiled(node, scope)
    if found.kind not in (TRUTH, NULL):
        raise refused(node, f"{what} must be true or false, this is a {found.kind}")
    return found.evaluate


def _constant(node: ast.expr, value: object) -> Typed:
    if value is None:
        return Typed(NULL, lambda _: None)
    if isinstance(value, bool):
        return Typed(TRUTH, lambda _: value)
    if (isinstance(value, int) and -(2**63) <= value < 2**63) or (isinstance(value, float) and math.isfinite(value)):
        return Typed(NUMBER, lambda _: value)
    if isinstance(value, str):
        return Typed(TEXT, lambda _: value)
    raise refused(node, f"{str(value)[:30]} is no number, text, true, false or null that filters know")


def _field(node: ast.expr, scope: Scope) -> Typed:
    path, kind = _path(node, scope)
    if kind.name in ("record", "list", "other"):
        how = "ask for one of its fields" if kind.name == "record" else "use count, any, all, min, max, mean, sum, first or last"
        raise refused(node, f"{'.'.join(path)} is a {kind}: {how}")
    return Typed(kind, _getter(path))


def _path(node: ast.expr, scope: Scope) -> tuple[tuple[str, ...], Kind]:
    """Names of a field from its record on, and what it is."""
    if isinstance(node, ast.Name):
        before, parent, word = _NOWHERE, scope.record, node.id
    elif isinstance(node, ast.Attribute):
        (before, parent), word = _path(node.value, scope), node.attr
    else:
        raise refused(node, "a field is its names with points between them, such as diaSource.snr")
    if parent.name != "record":
        raise refused(node, f"{'.'.join(before)} is a {parent} and has no field {word!r}")
    if word not in parent.fields:
        where = ".".join(before) or ("the list's items" if scope.in_list else "the packet")
        raise refused(node, f"no field {word!r} in {where}; {parent.near(word)}")
    return (*before, word), parent.fields[word]


def _getter(path: tuple[str, ...]) -> Evaluate:
    *outer, last = path

    def get(packet: Packet) -> Any:
        found: Any = packet
        for name in outer:
            found = found.get(name)
            if found is None:
                return None
        found = found.get(last)
        return None if found != found else found  # NaN is no value

    return get


def _both(node: ast.BoolOp, scope: Scope) -> Typed:
    parts = [truth(part, scope, "each side of and, or") for part in node.values]
    ends = isinstance(node.op, ast.Or)  # the value that decides

    def evaluate(packet: Packet) -> Any:
        result: Any = not ends
        for part in parts:
            found = part(packet)
            if found is ends:
                return ends
            if found is None:
                result = None
        return result

    return Typed(TRUTH, evaluate)


def _unary(node: ast.UnaryOp, scope: Scope) -> Typed:
    if isinstance(node.op, ast.Not):
        part = truth(node.operand, scope, "what follows not")
        return Typed(TRUTH, lambda packet: None if (found := part(packet)) is None else not found)
    number = _number(node.operand, scope, "what has a sign")
    if isinstance(node.op, ast.UAdd):
        return Typed(NUMBER, number)
    return Typed(NUMBER, lambda packet: None if (found := number(packet)) is None else -found)


def _number(node: ast.expr, scope: Scope, what: str) -> Evaluate:
    found = compiled(node, scope)
    if found.kind not in (NUMBER, NULL):
        raise refused(node, f"{what} must be a number, this is a {found.kind}")
    return found.evaluate


def _binary(node: ast.BinOp, scope: Scope) -> Typed:
    do = _ARITHMETIC[type(node.op)]
    return Typed(NUMBER, _safely(do, [_number(side, scope, "each side of + - * /") for side in (node.left, node.right)]))


def _safely(do: Callable[..., float], arguments: list[Evaluate]) -> Evaluate:
    """A function of numbers: null where one of them is, or where the result is no finite number."""

    def evaluate(packet: Packet) -> Any:
        values = [argument(packet) for argument in arguments]
        if None in values:
            return None
        try:
            found = do(*map(float, values))
        except (ArithmeticError, ValueError):
            return None
        return found if math.isfinite(found) else None

    return evaluate


def _compare(node: ast.Compare, scope: Scope) -> Typed:
    parts: list[Evaluate] = []
    left = node.left
    for sign, right in zip(node.ops, node.comparators, strict=True):
        parts.append(_pair(node, left, sign, right, scope))
        left = right

    def evaluate(packet: Packet) -> Any:
        result: Any = True
        for part in parts:
            found = part(packet)
            if found is False:
                return False
            if found is None:
                result = None
        return result

    return Typed(TRUTH, parts[0] if len(parts) == 1 else evaluate)


def _pair(node: ast.expr, left: ast.expr, sign: ast.cmpop, right: ast.expr, scope: Scope) -> Evaluate:
    if isinstance(sign, ast.In | ast.NotIn):
        return _among(left, right, scope, wanted=isinstance(sign, ast.In))
    if isinstance(sign, ast.Is | ast.IsNot):
        return _is_null(left, right, scope, wanted=isinstance(sign, ast.Is))
    one, other = compiled(left, scope), compiled(right, scope)
    if NULL in (one.kind, other.kind):
        raise refused(right, "nothing is equal to null: write `is null` or `is not null`")
    if one.kind != other.kind or one.kind not in (NUMBER, TEXT, TRUTH):
        raise refused(node, f"a {one.kind} cannot be compared with a {other.kind}")
    if one.kind == TRUTH and not isinstance(sign, ast.Eq | ast.NotEq):
        raise refused(node, "true and false are equal or not, neither is greater")
    compare, first, second = _COMPARE[type(sign)], one.evaluate, other.evaluate

    def evaluate(packet: Packet) -> Any:
        a = first(packet)
        if a is None:
            return None
        b = second(packet)
        return None if b is None else compare(a, b)

    return evaluate


def _among(left: ast.expr, right: ast.expr, scope: Scope, *, wanted: bool) -> Evaluate:
    one = compiled(left, scope)
    if not isinstance(right, ast.List | ast.Tuple):
        raise refused(right, "in is followed by a list of constants, such as ['g', 'r']")
    values = []
    for item in right.elts:
        known, value = constant(item)
        if not known or value is None or _constant(item, value).kind != one.kind:
            raise refused(item, f"each of the list must be a constant {one.kind}")
        values.append(value)
    members, get = frozenset(values), one.evaluate
    return lambda packet: None if (found := get(packet)) is None else (found in members) is wanted


def _is_null(left: ast.expr, right: ast.expr, scope: Scope, *, wanted: bool) -> Evaluate:
    if constant(right) != (True, None):
        raise refused(right, "is and is not are for null alone")
    get = _anything(left, scope)
    return lambda packet: (get(packet) is None) is wanted


def _anything(node: ast.expr, scope: Scope) -> Evaluate:
    """A node of whatever kind, records and lists too: whether it is there."""
    if constant(node)[0] or not isinstance(node, ast.Name | ast.Attribute):
        return compiled(node, scope).evaluate
    return _getter(_path(node, scope)[0])


def _call(node: ast.Call, scope: Scope) -> Typed:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in FUNCTIONS:
        count, do = FUNCTIONS[name]
        if len(node.args) != count:
            raise refused(node, f"{name} takes {count} numbers, not {len(node.args)}")
        return Typed(NUMBER, _safely(do, [_number(argument, scope, f"what {name} takes") for argument in node.args]))
    if name in ("count", "any", "all") or name in AGGREGATES:
        return _over_list(node, name, scope)
    known = Kind("record", dict.fromkeys([*FUNCTIONS, *AGGREGATES, "count", "any", "all"], NUMBER))
    raise refused(node, f"no function {name!r}; {known.near(name)}")


def _over_list(node: ast.Call, name: str, scope: Scope) -> Typed:
    """A function of a list: `count(list)`, `count(list, condition)`, `any(list, condition)`, `max(list.field, condition)`."""
    if scope.in_list:
        raise refused(node, f"{name} cannot stand inside of another list's condition")
    wants_field = name in AGGREGATES
    lowest = 2 if name in ("any", "all") else 1
    if not lowest <= len(node.args) <= 2:
        raise refused(node, f"{name} takes a list{'’s field' if wants_field else ''} and a condition on its items")
    first = node.args[0]
    path, kind = _path(_list_of(first, name) if wants_field else first, scope)
    if kind.item is None or kind.item.name != "record":
        raise refused(first, f"{'.'.join(path)} is a {kind}, no list of records")
    inside = Scope(kind.item, in_list=True)
    _few(node, first)
    passes = truth(node.args[1], inside, "a list's condition") if len(node.args) == 2 else None
    items = _getter(path)
    if not wants_field:
        return _counting(name, items, passes)
    value = _field(ast.copy_location(ast.Name(_last_name(first), ast.Load()), first), inside)
    if name not in ("first", "last") and value.kind != NUMBER:
        raise refused(first, f"{name} is for numbers, {_last_name(first)} is a {value.kind}")
    return Typed(value.kind, _aggregate(AGGREGATES[name], items, passes, value.evaluate))


def _list_of(node: ast.expr, name: str) -> ast.expr:
    if not isinstance(node, ast.Attribute):
        raise refused(node, f"{name} takes a field of a list, such as {name}(prvDiaSources.snr)")
    return node.value


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""


def _few(node: ast.Call, first: ast.expr) -> None:
    count = sum(1 for part in node.args[1:] for _ in ast.walk(part))
    if count > MAX_LIST_NODES:
        raise refused(first, f"the condition has {count} parts; at most {MAX_LIST_NODES} are looked at for each item of a list")


def _counting(name: str, items: Evaluate, passes: Evaluate | None) -> Typed:
    def number(packet: Packet) -> int:
        found = items(packet) or ()
        return len(found) if passes is None else sum(passes(item) is True for item in found)

    if name == "count":
        return Typed(NUMBER, number)
    if name == "any":
        return Typed(TRUTH, lambda packet: number(packet) > 0)
    return Typed(TRUTH, lambda packet: number(packet) == len(items(packet) or ()))


def _aggregate(do: Callable[[Any], Any], items: Evaluate, passes: Evaluate | None, value: Evaluate) -> Evaluate:
    def evaluate(packet: Packet) -> Any:
        chosen = [item for item in items(packet) or () if passes is None or passes(item) is True]
        values = [found for item in chosen if (found := value(item)) is not None]
        if not values:
            return None
        try:
            result = do(values)
        except (ArithmeticError, ValueError):  # a sum of both infinities, or beyond all numbers
            return None
        return None if isinstance(result, float) and not math.isfinite(result) else result

    return evaluate


_NODES: dict[type, Callable[[Any, Scope], Typed]] = {
    ast.BoolOp: _both,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.Name: _field,
    ast.Attribute: _field,
    ast.Call: _call,
}
