"""Models of what people write, shared with the backbone, where they are."""

from __future__ import annotations

from backbone.models import Strict, nearest, parse

__all__ = ["Strict", "nearest", "parse"]
