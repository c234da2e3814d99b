"""The language of filters: a small part of the syntax of Python's expressions. Nothing is ever evaluated as Python.

Fields of the packet by their names (`diaSource.snr`), numbers, 'texts', true, false, null; `and or not`, comparisons, `in [ … ]`,
`+ - * /`, functions (services/filters/functions.py). A field without a value is null; null makes null of what it enters, as in
SQL, and a filter whose result is null lets nothing pass.

Bounds are checked before anything is built: length, nesting, number of nodes. So the time to refuse a text is bounded too.
"""

from __future__ import annotations

import ast
import warnings

from backbone.errors import PermanentError

MAX_TEXT = 2000
MAX_NODES = 200
MAX_DEPTH = 30

_ALLOWED = (
    ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot,
    ast.Call, ast.Name, ast.Attribute, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip
_WORDS = {"true": True, "false": False, "null": None}


class FilterRefused(PermanentError, ValueError):
    """A filter's text that cannot be used; the message says where and why."""


def parse(text: str) -> ast.expr:
    """The tree of an expression; FilterRefused names what is not let in, and its column."""
    if not isinstance(text, str) or not text.strip():
        raise FilterRefused("a filter is an expression, such as: diaSource.snr > 10 and diaSource.reliability > 0.9")
    if len(text) > MAX_TEXT:
        raise FilterRefused(f"the filter has {len(text)} characters; at most {MAX_TEXT}")
    _nesting_of_text(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's compiler, on odd but harmless texts
            tree = ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body
    except SyntaxError as error:
        raise FilterRefused(f"column {error.offset or 1}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise FilterRefused(f"not an expression: {type(error).__name__}") from error
    _bounded(tree)
    return tree


def _nesting_of_text(text: str) -> None:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth > MAX_DEPTH:
            raise FilterRefused(f"column {place + 1}: brackets are nested more than {MAX_DEPTH} deep")


def _bounded(tree: ast.expr) -> None:
    count, level = 0, [tree]
    for _ in range(MAX_DEPTH):
        following: list[ast.expr] = []
        for node in level:
            count += 1
            if not isinstance(node, _ALLOWED):
                raise refused(node, f"{type(node).__name__} is not part of the filter language")
            following += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Load)]  # type: ignore[misc]
        if count > MAX_NODES:
            raise FilterRefused(f"the filter has more than {MAX_NODES} parts")
        if not following:
            return
        level = following
    raise FilterRefused(f"the filter is nested more than {MAX_DEPTH} deep")


def refused(node: ast.AST, why: str) -> FilterRefused:
    """An error at a node."""
    return FilterRefused(f"column {getattr(node, 'col_offset', 0) + 1}: {why}")


def constant(node: ast.expr) -> tuple[bool, object]:
    """Whether a node is a constant, and its value: true, false and null are words here."""
    if isinstance(node, ast.Constant):
        return True, node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return True, _WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return True, -value
    return False, None
