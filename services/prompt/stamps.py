"""A picture of a visit's alerts on one detector: science, template and difference of each, for whoever watches the night."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from payloads.prompt.result import PromptResult

SIDE_PX, MOST, GAP_PX, ZOOM = 31, 12, 2, 2
_RANGE = (-3.0, 8.0)
"""Shown from black to white, in sigmas of the sky around the middle of a stamp."""


def stamps(result: PromptResult) -> bytes:
    """PNG, a row of three stamps (science, template, difference) for each of the brightest alerts; empty without any."""
    told = result.dia_sources[result.told]
    if not len(told):
        return b""
    order = np.argsort(-np.abs(np.asarray(told["snr"], float)))[:MOST]
    planes = (result.science.data, result.difference.matched_template, result.difference.data)
    rows = []
    for row in told[order]:
        x, y = round(float(row["x"])), round(float(row["y"]))
        rows.append(np.hstack([_framed(_shade(_cut(plane, x, y))) for plane in planes]))
    return png(np.kron(np.vstack(rows), np.ones((ZOOM, ZOOM), np.uint8)))


def _cut(plane: NDArray[np.float32], x: int, y: int) -> NDArray[np.float32]:
    half = SIDE_PX // 2
    stamp = np.full((SIDE_PX, SIDE_PX), np.nan, np.float32)
    ny, nx = plane.shape
    y0, y1, x0, x1 = max(y - half, 0), min(y + half + 1, ny), max(x - half, 0), min(x + half + 1, nx)
    if y0 < y1 and x0 < x1:
        stamp[y0 - y + half : y1 - y + half, x0 - x + half : x1 - x + half] = plane[y0:y1, x0:x1]
    return stamp


def _shade(stamp: NDArray[np.float32]) -> NDArray[np.uint8]:
    good = stamp[np.isfinite(stamp)]
    if not len(good):
        return np.zeros(stamp.shape, np.uint8)
    middle = np.median(good)
    sigma = max(1.4826 * float(np.median(np.abs(good - middle))), 1e-6)
    low, high = _RANGE
    scaled = np.nan_to_num(((stamp - middle) / sigma - low) / (high - low), nan=0.0)
    return (255 * np.clip(scaled, 0, 1)).astype(np.uint8)[::-1]


def _framed(stamp: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(stamp, GAP_PX, constant_values=255)


def png(image: NDArray[np.uint8]) -> bytes:
    """A grey image (rows from the top) as PNG: small enough to write here, and nothing else is needed of an imaging library."""
    height, width = image.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = np.hstack([np.zeros((height, 1), np.uint8), image]).tobytes()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
