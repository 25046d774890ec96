# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""FORGE's archives, as numpy itself writes and reads them, and archives that somebody made to do harm."""

import builtins
import collections
import copyreg
import io
import os
import pickle
import pickletools
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_hf.data import (
    ItemEmbeddings,
    ItemPairs,
    read_contrastive_archive,
    read_reconstruction_archive,
    write_contrastive_archive,
    write_reconstruction_archive,
)
from forge_hf.data.object_array import read_object_array
from forge_hf.errors import CorruptFileError, InvalidEmbeddingsError, UnknownItemError


IDS = ["007", "1e5", "NA", "日本", "a;b"]
PAIRS = [["NA", "007"], ["1e5", "日本"], ["a;b", "NA"]]
EMBEDS = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
text_ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


def contrastive(path, save=np.savez, **changed):
    arrays = {"itemEncID": np.array({item: row for row, item in enumerate(IDS)}, dtype=object), "pairs": PAIRS}
    save(path, **(arrays | {"embeds": EMBEDS} | changed))
    return path


def test_reads_what_numpy_writes_and_maps_it(tmp_path):
    pairs = read_contrastive_archive(contrastive(tmp_path / "c.npz"))
    assert pairs.items.item_ids == IDS and len(pairs) == 3
    assert isinstance(pairs.items._table, np.memmap) and not pairs.items._table.flags.writeable
    batch = pairs.__getitems__([0, 2])
    np.testing.assert_array_equal(batch["embeddings"], EMBEDS[[2, 4]])
    np.testing.assert_array_equal(batch["positives"], EMBEDS[[0, 2]])

    np.savez(tmp_path / "r.npz", ids=np.array(IDS), embeds=EMBEDS)
    items = read_reconstruction_archive(tmp_path / "r.npz")
    assert items.item_ids == IDS and isinstance(items._table, np.memmap)
    np.testing.assert_array_equal(items.to_tensor(), EMBEDS)
    np.savez(tmp_path / "r.npz", ids=np.array([5, 3]), embeds=np.asfortranarray(EMBEDS[:2].astype(np.float64)))
    items = read_reconstruction_archive(tmp_path / "r.npz")
    assert items.item_ids == [5, 3]
    np.testing.assert_array_equal(items.to_tensor(), EMBEDS[:2])
    np.savez(tmp_path / "r.npz", ids=np.array(IDS, dtype=object), embeds=EMBEDS)
    assert read_reconstruction_archive(tmp_path / "r.npz").item_ids == IDS


@pytest.mark.parametrize(
    "mapping",
    [
        {np.str_(item): np.int64(row) for row, item in enumerate(IDS)},
        {item: np.int32(row) for row, item in enumerate(IDS)},
        {item: 4 - row for row, item in enumerate(IDS)},  # another order
        {item: row // 2 for row, item in enumerate(IDS)},  # rows that items share, rows of no item
    ],
)
def test_every_mapping_that_forge_reads(tmp_path, mapping):
    pairs = read_contrastive_archive(contrastive(tmp_path / "c.npz", itemEncID=np.array(mapping, dtype=object)))
    batch = pairs.__getitems__(range(3))
    for side, name in enumerate(("embeddings", "positives")):
        np.testing.assert_array_equal(batch[name], EMBEDS[[mapping[pair[side]] for pair in PAIRS]])
    assert sorted(pairs.items.item_ids) == sorted(IDS)


def test_integer_ids_and_pickled_pairs(tmp_path):
    mapping = np.array({10: 0, 2**40: 1, -3: 2}, dtype=object)
    expected = [[0, 1], [2, 0]]
    for pairs in (np.array([[10, 2**40], [-3, 10]]), np.array([[10, 2**40], [-3, 10]], dtype=object)):
        path = contrastive(tmp_path / "c.npz", itemEncID=mapping, pairs=pairs, embeds=EMBEDS[:3])
        assert read_contrastive_archive(path).rows.tolist() == expected
    path = contrastive(tmp_path / "c.npz", pairs=np.array(PAIRS, dtype=object))
    assert read_contrastive_archive(path).rows.tolist() == [[2, 0], [1, 3], [4, 2]]


@folder
@given(data=st.data())
def test_round_trip(tmp_path, data):
    kind = data.draw(st.sampled_from([text_ids, st.integers(-(2**63), 2**63 - 1)]))
    ids = data.draw(st.lists(kind, min_size=2, max_size=12, unique=True))
    numbers = st.integers(0, len(ids) - 1)
    rows = data.draw(st.lists(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), min_size=1))
    embeddings = torch.arange(3.0 * len(ids)).view(-1, 3)
    pairs = ItemPairs.from_rows(ItemEmbeddings(embeddings, ids), np.array(rows))
    write_contrastive_archive(pairs, tmp_path / "c.npz")
    write_reconstruction_archive(pairs.items, tmp_path / "r.npz")
    again = read_contrastive_archive(tmp_path / "c.npz")
    for items in (again.items, read_reconstruction_archive(tmp_path / "r.npz")):
        assert items.item_ids == ids and torch.equal(items.to_tensor(), embeddings)
    assert again.rows.tolist() == pairs.rows.tolist()
    # As FORGE's own loader reads it.
    with np.load(tmp_path / "c.npz", allow_pickle=True) as archive:
        row_of = archive["itemEncID"].item()
        assert row_of == {item: row for row, item in enumerate(ids)}
        assert [[row_of[left], row_of[right]] for left, right in archive["pairs"]] == pairs.rows.tolist()
        np.testing.assert_array_equal(archive["embeds"].astype(np.float32), embeddings)
    with np.load(tmp_path / "r.npz") as archive:
        assert archive["ids"].tolist() == ids


def test_compressed_archives_are_unpacked_to_a_file(tmp_path):
    path = contrastive(tmp_path / "c.npz", save=np.savez_compressed)
    with pytest.raises(ValueError, match="extract_to"):
        read_contrastive_archive(path)
    pairs = read_contrastive_archive(path, extract_to=tmp_path / "new" / "embeds.npy")
    assert pairs.rows.tolist() == [[2, 0], [1, 3], [4, 2]] and isinstance(pairs.items._table, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "embeds.npy"), EMBEDS)
    np.savez_compressed(tmp_path / "r.npz", ids=IDS, embeds=np.asfortranarray(EMBEDS))
    items = read_reconstruction_archive(tmp_path / "r.npz", extract_to=tmp_path / "f.npy")
    np.testing.assert_array_equal(items.to_tensor(), EMBEDS)


def test_wrong_archives(tmp_path):
    path = tmp_path / "c.npz"
    for changed, error in [
        ({"pairs": [["NA", "unknown"]]}, UnknownItemError),
        ({"pairs": [[0.5, 1.5]]}, CorruptFileError),
        ({"embeds": EMBEDS[:4]}, CorruptFileError),
        ({"embeds": EMBEDS[0]}, InvalidEmbeddingsError),
        ({"embeds": EMBEDS.astype(int)}, InvalidEmbeddingsError),
        ({"embeds": EMBEDS.astype(object)}, InvalidEmbeddingsError),
        ({"embeds": np.zeros(5, dtype=[("a", "O")])}, InvalidEmbeddingsError),
        ({"itemEncID": np.array({}, dtype=object)}, CorruptFileError),
        ({"itemEncID": np.array(["a"], dtype=object)}, CorruptFileError),
        ({"itemEncID": np.array({"a": 0, 1: 1}, dtype=object)}, CorruptFileError),
        ({"itemEncID": np.array({"a": "b"}, dtype=object)}, CorruptFileError),
        ({"itemEncID": np.array({"a": -1}, dtype=object)}, CorruptFileError),
        ({"itemEncID": np.array([1, 2])}, CorruptFileError),
    ]:
        with pytest.raises(error):
            read_contrastive_archive(contrastive(path, **changed))
    np.savez(path, ids=IDS[:2], embeds=EMBEDS)
    with pytest.raises(InvalidEmbeddingsError, match="5 rows"):
        read_reconstruction_archive(path)
    with pytest.raises(CorruptFileError, match="itemEncID"):
        read_contrastive_archive(path)
    np.save(tmp_path / "a.npy", EMBEDS)
    for content in (b"", b"PK\3\4", b"no archive", pickle.dumps([1]), (tmp_path / "a.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError):
            read_reconstruction_archive(path)
    with pytest.raises(FileNotFoundError):
        read_reconstruction_archive(tmp_path / "none.npz")
    items = ItemEmbeddings(torch.eye(2), ["a", "b\0c"])
    for ids, target in ((["a", "b\0c"], path), ([True, "b"], path), (["a", "b"], tmp_path / "x.zip")):
        with pytest.raises(ValueError):
            write_reconstruction_archive(ItemEmbeddings(torch.eye(2), ids), target)
    assert len(items) == 2 and not list(tmp_path.glob(".*"))


def test_no_damage_goes_unnoticed_or_escapes(tmp_path):
    """Every byte of an archive, but those of the mapped numbers, changed in turn."""
    whole = contrastive(tmp_path / "whole.npz", save=np.savez_compressed).read_bytes()
    expected = PAIRS
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        (tmp_path / "c.npz").write_bytes(damaged)
        try:
            pairs = read_contrastive_archive(tmp_path / "c.npz", extract_to=tmp_path / "e.npy")
        except (CorruptFileError, InvalidEmbeddingsError, UnknownItemError):
            continue
        ids = pairs.items.item_ids
        assert [[ids[left], ids[right]] for left, right in pairs.rows] == expected
    for size in range(0, len(whole), 101):
        (tmp_path / "c.npz").write_bytes(whole[:size])
        with pytest.raises(CorruptFileError):
            read_contrastive_archive(tmp_path / "c.npz", extract_to=tmp_path / "e.npy")


# --- Archives made to do harm ---


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def member(payload, shape=(), descr="|O"):
    """An .npy file of objects whose pickle is `payload`."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + payload


def write_archive(path, compression=zipfile.ZIP_STORED, **members):
    plain = {"pairs": PAIRS, "embeds": EMBEDS, "ids": IDS}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in (plain | members).items():
            if not isinstance(value, bytes):
                file = io.BytesIO()
                np.lib.format.write_array(file, np.array(value))
                value = file.getvalue()
            archive.writestr(f"{name}.npy", value)
    return path


def array_pickle(*elements, protocol=4):
    """numpy's own pickle of an array of objects."""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return pickle.dumps(array.reshape(()) if len(elements) == 1 else array, protocol)


def assemble(*parts):
    """A pickle put together by hand."""
    return b"\x80\x04" + b"".join(parts) + b"."


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def word(text):
    """The instruction that pushes a short text."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


def gadgets(marker):
    text = str(marker)
    touch = f"open({text!r}, 'w')"
    yield "system", array_pickle({"a": Call(os.system, f"touch {text}")})
    yield "bare system", pickle.dumps(Call(os.system, f"touch {text}"))
    yield "eval", array_pickle(Call(builtins.eval, touch))
    yield "exec as a key", array_pickle({Call(builtins.exec, touch): 1})
    yield "getattr", array_pickle({"a": Call(builtins.getattr, Call(builtins.__import__, "os"), "system")})
    yield "open", array_pickle({"a": 1}, Call(builtins.open, text, "w"))
    yield "protocol 0", pickle.dumps(Call(os.system, f"touch {text}"), 0)
    yield "protocol 2", pickle.dumps(Call(os.system, f"touch {text}"), 2)
    yield "instance", f"(S'touch {text}'\nios\nsystem\n.".encode()
    yield "object", b"(" + name("os", "system") + f"S'touch {text}'\no.".encode()
    yield "new object", assemble(name("subprocess", "Popen"), b"(](", word("touch"), word(text), b"et\x81")
    yield "copyreg", array_pickle({"a": Call(copyreg._reconstructor, collections.Counter, dict, {})})
    yield "extension", assemble(b"\x82\x01")
    yield "persistent", assemble(b"\x8c\x01aQ")
    yield "dotted", assemble(b"\x8c\x05numpy\x8c\x16ndarray.__class__.mro\x93)R")
    yield "numpy's load", assemble(name("numpy", "load"), word(text), b"N\x88\x87R")
    runstring = name("numpy.testing._private.utils", "runstring")
    yield "numpy's runstring", assemble(runstring, word(touch), b"}\x86R")
    yield "numpy's fromfile", assemble(name("numpy", "fromfile"), b"\x8c\x04/etc\x85R")
    yield "numpy's save", assemble(name("numpy", "save"), word(text), b"K\x01\x86R")
    yield "core alias", assemble(name("numpy.core.multiarray", "os.system"), b"\x8c\x01a\x85R")
    # Pointers for objects: numpy itself would take the bytes for addresses.
    array, dtype, new = name("numpy", "ndarray"), name("numpy", "dtype"), name("numpy.core.multiarray", "_reconstruct")
    objects = dtype + b"\x8c\x02O8\x89\x88\x87R"
    pointer = b"C\x08AAAAAAAA"
    made = new + array + b"K\x00\x85C\x01b\x87R"
    yield "objects of a buffer", assemble(array, b"(K\x01\x85", objects, pointer, b"tR")
    yield "state of bytes", assemble(made, b"(K\x01K\x01\x85", objects, b"\x89", pointer, b"tb")
    yield "scalar of bytes", assemble(name("numpy.core.multiarray", "scalar"), objects, pointer, b"\x86R")
    floats = dtype + b"\x8c\x02f8\x89\x88\x87R"
    yield "other dtype", assemble(made, b"(K\x01K\x01\x85", floats, b"\x89", pointer, b"tb")
    yield "array called", assemble(array, b"K\x01\x85\x85R")
    yield "huge array", assemble(new, array, b"J\xff\xff\xff\x7f\x85C\x01b\x87R")
    yield "no elements", assemble(made, b"(K\x01K\x05\x85", objects, b"\x89]tb")
    yield "state set twice", assemble(made, b"(K\x01)", objects, b"\x89]K\x01atb(K\x01)", objects, b"\x89]K\x01atb")
    yield "state of a function", assemble(new, b"}\x8c\x04nameK\x01sb")
    yield "structure", assemble(dtype, b"\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NN}K\x01K\x01K\x00tb")
    yield "subclass", assemble(new, name("numpy", "matrix"), b"K\x00\x85C\x01b\x87R")
    # What isn't code, but isn't FORGE's either.
    yield "nested array", array_pickle({"a": np.array([{"b": 1}, 2], dtype=object)})
    yield "array in an array", array_pickle(np.array(1), np.array(2))
    yield "nested dictionary", array_pickle({"a": {"b": 1}})
    yield "float", array_pickle({"a": 0.5})
    yield "bool", array_pickle({"a": True})
    yield "set", array_pickle({"a"}, {"b"})
    yield "huge integer", array_pickle({"a": 2**100})
    yield "None", array_pickle({"a": None})
    yield "dates", array_pickle({"a": np.datetime64("2020-01-01")})
    # Shapes that break readers.
    yield "deep lists", assemble(b"]" * 30_000 + b"a" * 29_999)
    deep = b")" + b"\x85" * 50_000
    yield "deep tuples as a key", assemble(made, b"(K\x01)", objects, b"\x89]}", deep, b"K\x01sa", b"tb")
    yield "marks", assemble(b"(" * 100_000)
    yield "empty stack", assemble(b"\x93")
    yield "append to nothing", assemble(b"K\x01a")
    yield "memory of nothing", assemble(b"h\x07")
    yield "endless text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a."
    yield "long text", b"\x80\x04X\xff\xff\xff\x7fa."
    yield "list of itself", assemble(made, b"(K\x01K\x01\x85", objects, b"\x89]\x94h\x00atb")
    yield "two objects", assemble(b"K\x01K\x02")
    yield "no end", b"\x80\x04K\x01"
    yield "nothing", b""


# One marker for all of them: whatever runs leaves it behind.
MARKER = f"/tmp/forge_hf_test_{os.getpid()}"


@pytest.mark.parametrize("payload", [pytest.param(payload, id=title) for title, payload in gadgets(MARKER)])
def test_hostile_archives_run_nothing(tmp_path, payload):
    modules = set(sys.modules)
    with pytest.raises(CorruptFileError):
        read_object_array(payload)
    with pytest.raises(CorruptFileError):
        read_contrastive_archive(write_archive(tmp_path / "c.npz", itemEncID=member(payload)))
    with pytest.raises((CorruptFileError, InvalidEmbeddingsError)):
        read_reconstruction_archive(write_archive(tmp_path / "r.npz", ids=member(payload, (5,))))
    with pytest.raises(InvalidEmbeddingsError):
        read_reconstruction_archive(write_archive(tmp_path / "r.npz", embeds=member(payload, (5, 8))))
    assert not os.path.exists(MARKER) and set(sys.modules) == modules


def test_the_gadgets_would_run(tmp_path):
    ran = []
    for title, payload in gadgets(tmp_path / "marker"):
        if title in ("system", "eval", "exec as a key", "open", "protocol 0", "instance", "numpy's save"):
            (tmp_path / "marker").unlink(missing_ok=True)
            (tmp_path / "marker.npy").unlink(missing_ok=True)
            try:
                pickle.loads(payload)
            except Exception:  # noqa: BLE001
                pass
            ran.append((tmp_path / "marker").exists() or (tmp_path / "marker.npy").exists())
    assert ran == [True] * 7


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_pickles_give_what_they_say_or_an_error(data):
    protocol = data.draw(st.sampled_from([3, 4, 5]))
    payload = bytearray(array_pickle({"a": 1, "bc": 300, "d" * 300: 70_000, "e": -1}, protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        element = read_object_array(bytes(payload)).item()
    except CorruptFileError:
        return
    # What it reads, the plain unpickler reads the same, if it doesn't stumble over what doesn't matter here.
    assert not any(op.name in ("INST", "OBJ", "NEWOBJ", "EXT1") for op, _, _ in pickletools.genops(bytes(payload)))
    try:
        expected = pickle.loads(bytes(payload)).item()
    except Exception:  # noqa: BLE001
        return
    assert element == expected


def test_zip_bombs_and_lies_are_refused(tmp_path):
    mapping = array_pickle({item: row for row, item in enumerate(IDS)})
    bomb = member(b"\x00" * (1 << 26), (1 << 26,), "|u1")
    for changed in ({"pairs": bomb}, {"itemEncID": member(b"]" * (1 << 26))}):
        path = write_archive(tmp_path / "c.npz", zipfile.ZIP_DEFLATED, **({"itemEncID": member(mapping)} | changed))
        with pytest.raises(CorruptFileError, match="fill memory"):
            read_contrastive_archive(path)
    big = member(bytes(4 << 24), (1 << 18, 64), "<f4")
    path = write_archive(tmp_path / "r.npz", zipfile.ZIP_DEFLATED, embeds=big)
    with pytest.raises(CorruptFileError, match="fill memory"):
        read_reconstruction_archive(path, extract_to=tmp_path / "e.npy")
    assert not (tmp_path / "e.npy").exists()
    for descr, shape in [("<f4", (10**12, 512)), ("<f4", (-5, -8)), ("<U0", (10**12,)), ("<f4", ())]:
        path = write_archive(tmp_path / "r.npz", embeds=member(EMBEDS.tobytes(), shape, descr))
        with pytest.raises((CorruptFileError, InvalidEmbeddingsError)):
            read_reconstruction_archive(path)
    # A list of members that says more than the file holds.
    path = write_archive(tmp_path / "r.npz", embeds=member(EMBEDS.tobytes(), (10**6, 8), "<f4"))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"embeds.npy"))
    content[entry + 20 : entry + 28] = struct.pack("<II", *[128 + 32 * 10**6] * 2)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="ends within"):
        read_reconstruction_archive(path)
