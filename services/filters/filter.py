"""One filter: its text, checked against a schema, and whether a packet passes it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.filters.compiler import MAX_LIST_NODES, Scope, truth
from services.filters.kinds import Kind
from services.filters.language import FilterRefused, parse

MAX_LISTS = 8


@dataclass(frozen=True)
class Filter:
    """A filter that is ready for packets of one schema."""

    text: str
    _evaluate: Callable[[Mapping[str, Any]], Any]

    @classmethod
    def of(cls, text: str, kind: Kind) -> Filter:
        """A filter for packets of this kind (services.filters.kinds); FilterRefused says what is wrong, and where."""
        tree = parse(text)
        lists = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 2]
        if len(lists) > MAX_LISTS:
            raise FilterRefused(f"{len(lists)} functions with two arguments; at most {MAX_LISTS} in a filter")
        if sum(1 for node in lists for _ in ast.walk(node.args[1])) > MAX_LIST_NODES:
            raise FilterRefused(f"the conditions on lists have more than {MAX_LIST_NODES} parts together")
        return cls(text, truth(tree, Scope(kind), "a filter"))

    def passes(self, packet: Mapping[str, Any]) -> bool:
        """Whether a packet passes: null is no."""
        return self._evaluate(packet) is True
