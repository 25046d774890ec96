# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoding all items: what the model gives at once, through kills, damage and any number of processes."""

import os
import signal

import pytest
import torch
import torch.distributed
from accelerate import debug_launcher

from forge_hf import ItemEmbeddings, RQVAEConfig, RQVAEModel, SemanticIdCatalog
from forge_hf.errors import InvalidEmbeddingsError, StorageError
from forge_hf.hub import Shards
from forge_hf.models import ResidualKMeansConfig, ResidualKMeansModel, encode_items

from ..faults import in_child, small_disk


NUM_ITEMS, BATCH_SIZE = 105, 10


def make_model(seed=0):
    torch.manual_seed(seed)
    return RQVAEModel(RQVAEConfig(input_dim=6, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 8, 8])).eval()


@pytest.fixture(scope="module")
def items():
    return ItemEmbeddings(torch.randn(NUM_ITEMS, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def expected(model, items):
    return model.encode(items.to_tensor()).codes


class Counted:
    """A model that counts the batches that it encodes, and ends the process at one of them."""

    def __init__(self, model, monkeypatch, stop=None, end=lambda: os.kill(os.getpid(), signal.SIGKILL)):
        self.count, encode = 0, model.encode

        def counted(batch):
            if self.count == stop:
                end()
            self.count += 1
            return encode(batch)

        monkeypatch.setattr(model, "encode", counted)


def encode(model, items, folder, **options):
    return encode_items(model, items, folder / "codes", show_progress=False, **{"batch_size": BATCH_SIZE, **options})


@pytest.mark.parametrize("batch_size", [1, 10, 105, 1000])
def test_codes_are_the_models(model, items, expected, tmp_path, batch_size):
    codes = encode(model.train(), items, tmp_path, batch_size=batch_size)
    assert model.training and codes.dtype == torch.int64 and torch.equal(codes, expected)
    model.eval()


@pytest.mark.parametrize("stop", [0, 1, 6, 10])
def test_goes_on_where_it_was_killed(model, items, expected, tmp_path, monkeypatch, stop):
    with monkeypatch.context() as patch:
        Counted(model, patch, stop)
        assert os.WIFSIGNALED(in_child(lambda: encode(model, items, tmp_path)))
    counted = Counted(model, monkeypatch)
    assert torch.equal(encode(model, items, tmp_path), expected)
    assert counted.count == 11 - stop
    assert torch.equal(encode(model, items, tmp_path), expected) and counted.count == 11 - stop
    Shards.remove(tmp_path / "codes")
    assert not os.listdir(tmp_path)


def test_damaged_batches_are_encoded_again(model, items, expected, tmp_path, monkeypatch, caplog):
    encode(model, items, tmp_path)
    part = tmp_path / "codes.part-0000"
    content = bytearray(part.read_bytes())
    place = content.index(b"shard 4 ")
    content[place + 60] ^= 1
    part.write_bytes(content)
    counted = Counted(model, monkeypatch)
    assert torch.equal(encode(model, items, tmp_path), expected)
    assert counted.count == 1 and "Shard 4" in caplog.text
    part.write_bytes(content[:place])  # truncated
    assert torch.equal(encode(model, items, tmp_path), expected) and counted.count == 1 + 7


def test_what_has_changed_isnt_mixed(model, items, tmp_path):
    source = tmp_path / "items.npy"
    source.write_bytes(b"items")
    encode(model, items, tmp_path, sources=[source])
    rows = items.to_tensor()
    rows[50, 3] += 1e-6
    renamed = ItemEmbeddings(items.to_tensor(), item_ids=[f"i{n}" for n in range(NUM_ITEMS)])
    encode(model, renamed, tmp_path, sources=[source])  # ids have no part in codes
    for changed, name in (
        ((make_model(1), items), "model"),
        ((model, ItemEmbeddings(rows)), "embeddings"),
        ((model, items.select(range(100))), "num_items"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            encode(*changed, tmp_path, sources=[source])
    with pytest.raises(ValueError, match="`batch_size` 10 then, 9 now"):
        encode(model, items, tmp_path, sources=[source], batch_size=9)
    with torch.no_grad():
        next(model.buffers()).add_(1)
        with pytest.raises(ValueError, match="`model`"):
            encode(model, items, tmp_path, sources=[source])
        next(model.buffers()).sub_(1)
    os.utime(source, ns=(1, 1))
    with pytest.raises(ValueError, match="`source`"):
        encode(model, items, tmp_path, sources=[source])
    with pytest.raises(ValueError, match="batch_size"):
        encode(model, items, tmp_path, batch_size=0)
    with pytest.raises(InvalidEmbeddingsError, match="width"):
        encode(model, ItemEmbeddings(torch.zeros(3, 5)), tmp_path)


def test_a_full_disk_loses_no_batch(model, items, expected, tmp_path, monkeypatch):
    assert small_disk(lambda: encode(model, items, tmp_path), 1500)
    finished = (tmp_path / "codes.part-0000").read_bytes().count(b"shard ")
    assert 0 < finished < 11 and issubclass(StorageError, OSError)
    counted = Counted(model, monkeypatch)
    assert torch.equal(encode(model, items, tmp_path), expected) and counted.count == 11 - finished


def encode_and_save(model, items, folder):
    torch.set_num_threads(1)
    codes = encode(model, items, folder)
    if torch.distributed.get_rank() == 0:
        sizes = model.config.codebook_sizes
        SemanticIdCatalog.from_codes(range(len(items)), codes, codebook_sizes=sizes).save_pretrained(folder / "made")


def test_two_processes_go_on_with_what_one_began(model, items, expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Counted(model, patch, stop=4)
        in_child(lambda: encode(model, items, tmp_path))
    debug_launcher(encode_and_save, args=(model, items, tmp_path), num_processes=2)
    assert torch.equal(SemanticIdCatalog.from_pretrained(tmp_path / "made").original_codes, expected)
    assert sorted(os.listdir(tmp_path)) == ["codes.part-0000", "codes.part-0001", "made"]


def balanced_codes(folder, items):
    model = ResidualKMeansModel(ResidualKMeansConfig(input_dim=6, codebook_sizes=[5, 3], balanced=True)).fit(items)
    codes = encode(model, items, folder)
    assert torch.equal(codes, model.balanced_codes(items))
    assert [torch.bincount(level).tolist() for level in codes.T] == [[21] * 5, [35] * 3]


def test_balanced_codes_are_of_the_whole_table(items, tmp_path, monkeypatch):
    balanced_codes(tmp_path, items)
    monkeypatch.setattr(ResidualKMeansModel, "encode", None)
    balanced_codes(tmp_path, items)  # from what has been written


def test_balanced_codes_on_two_processes(items, tmp_path):
    debug_launcher(balanced_codes, (tmp_path, items))
