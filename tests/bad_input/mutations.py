# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Whole files with something wrong: bytes that were hit, cut or repeated, and JSON with other values."""

import json
import math
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st


# What stands where something else should.
ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 0.5, -0.5, 1e300, math.inf, -math.inf, math.nan),
    *("", "x", "C0C4", "../x", "a/b", "7", "é😀", "\ud800", "hf_" + "a" * 30, "1" * 5000),
    *([], [[]], [1, "a", None], [0.5] * 40, [1] * 3000, {}, {"a": 1}, {"a": {"b": None}}, {"": []}, [{"split": 1}]),
]
_PIECES = [b"", b"\n", b"\r\n", b",", b'"', b";", b"C", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"9" * 30, b"-1", b"{"]


@st.composite
def mutated_bytes(draw, wholes: list[bytes]) -> bytes:
    """One of the files, hit in up to four places; now and then any bytes at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        # Near an end as often as anywhere: that is where headers and directories are.
        at = draw(st.one_of(st.integers(0, len(data)), st.integers(0, min(len(data), 80))))
        length = draw(st.sampled_from([1, 2, 4, 8, 40, len(data)]))
        kind = draw(st.sampled_from(["flip", "set", "delete", "insert", "cut", "repeat", "move"]))
        piece = data[at : at + length]
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at : at + length] = draw(st.one_of(st.binary(max_size=8), st.sampled_from(_PIECES)))
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(_PIECES))
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = piece * draw(st.integers(1, 3))
        elif kind == "move":
            to = draw(st.integers(0, len(data)))
            data[to : to + len(piece)] = piece
    return bytes(data)


@st.composite
def mutated_json(draw, wholes: list[Any]) -> bytes:
    """One of the documents, with up to three entries that are odd, gone, or new."""
    odd = st.sampled_from(ODD).map(deepcopy)
    document = [json.loads(json.dumps(draw(st.sampled_from(wholes))))]  # in a list: the whole may be replaced, too
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_places(document))))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            parent[key] = draw(odd)
        elif kind == "remove" and parent is not document:
            del parent[key]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", *map(str, parent)]))] = draw(odd)
        elif kind == "add" and parent is not document:
            parent.append(draw(odd))
    return json.dumps(document[0]).encode()


def _places(node: Any):
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(entries)[:50]:
        yield node, key
        yield from _places(value)
