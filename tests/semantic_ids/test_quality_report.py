# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `semantic_id_quality`, of neighbours and of the embedding hit rate, against brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_hf import ItemEmbeddings, SemanticIdCatalog, leave_one_out, read_sequences, semantic_id_quality
from forge_hf.data import adjacent_pairs
from forge_hf.errors import InvalidEmbeddingsError, UnknownItemError
from forge_hf.semantic_ids import (
    collision_rate,
    embedding_hit_rate,
    gini,
    nearest_neighbors,
    neighbors,
    pairs_by_shared_prefix,
    prefix_purity,
)


NUM_ITEMS = 60
BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon2014" / "beauty"


@pytest.fixture
def world():
    """A catalog of shuffled ids with collisions, embeddings in an order of their own with two items more, pairs."""
    generator = np.random.default_rng(0)
    ids = [f"i{n}" for n in generator.permutation(NUM_ITEMS)]
    codes = generator.integers(0, 4, (NUM_ITEMS, 3))
    catalog = SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=[4, 4, 4], on_collision="suffix")
    embeddings = generator.normal(size=(NUM_ITEMS + 2, 8)).astype(np.float32)
    items = ItemEmbeddings(embeddings, [*(f"i{n}" for n in range(NUM_ITEMS)), "x", "y"])
    pairs = [[f"i{a}", f"i{b}"] for a, b in generator.integers(0, 30, (80, 2))]
    return catalog, items, pairs


def cosines(catalog, items):
    table = items.to_tensor()[[items.item_ids.index(item) for item in catalog.item_ids]].double()
    table = table / table.norm(dim=1, keepdim=True)
    return table @ table.T


def by_brute_force(catalog, items, pairs, k):
    """Hit rate and the neighbours' shares of shared prefixes, of the items in `pairs`."""
    similar = cosines(catalog, items).fill_diagonal_(-2)
    related = {item: set() for pair in pairs for item in pair}
    for a, b in pairs:
        if a != b:
            related[a].add(b)
            related[b].add(a)
    rates, shares = [], np.zeros(3)
    queries = [item for item in related if related[item]]
    for item in queries:
        row = catalog.item_ids.index(item)
        near = similar[row].argsort(descending=True)[:k].tolist()
        rates.append(len(related[item] & {catalog.item_ids[n] for n in near}) / len(related[item]))
        own = catalog.codes[row].tolist()
        for other in (catalog.codes[n].tolist() for n in near):
            shares += [own[:length] == other[:length] for length in (1, 2, 3)]
    return np.mean(rates), shares / (k * len(queries))


def test_every_metric(world, monkeypatch):
    catalog, items, pairs = world
    monkeypatch.setattr(neighbors, "_BLOCK_ROWS", 7)
    categories = {item: item[-1] for item in catalog.item_ids}
    quality = semantic_id_quality(catalog, items, pairs, categories, ks=(1, 5, 59, 60), num_neighbors=5)
    for k in (1, 5, 59):
        rate, shares = by_brute_force(catalog, items, pairs, k)
        assert quality.embedding_hit_rate[str(k)] == pytest.approx(rate)
        if k == 5:
            assert quality.neighbors_sharing_prefix == pytest.approx(shares.tolist())
    assert quality.embedding_hit_rate.keys() == {"1", "5", "59"} and quality.embedding_hit_rate["59"] == 1

    codes = catalog.codes[:, :3]
    assert quality.num_pairs == len({frozenset(pair) for pair in pairs if pair[0] != pair[1]})
    unique = {tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]}
    rows = np.array([[catalog.item_ids.index(item) for item in pair] for pair in unique])
    assert quality.pairs_sharing_prefix == pytest.approx(pairs_by_shared_prefix(codes, rows).tolist())
    assert quality.prefix_purity == prefix_purity(codes, [item[-1] for item in catalog.item_ids])[0].tolist()
    # Of the item tokenizer's codes, and of what became of them: the suffix tells all items apart.
    assert (quality.collision_rate, quality.gini) == (collision_rate(codes), gini(codes)) and quality.gini > 0
    assert (quality.resolved_collision_rate, quality.resolved_gini, quality.resolved_max_load) == (0, 0, 1)
    assert len(quality.utilization) == len(quality.perplexity) == len(quality.prefix_collision_rates) == 3
    assert json.loads(json.dumps(quality.to_dict())) == quality.to_dict()


def test_less_data_gives_fewer_metrics(world):
    catalog, items, pairs = world
    codes_alone = semantic_id_quality(catalog).to_dict()
    assert codes_alone == catalog.quality
    neighbours = semantic_id_quality(catalog, items).to_dict()
    added = {"neighbors_sharing_prefix", "num_queries", "num_neighbors", "random_pairs_sharing_prefix"}
    assert neighbours.keys() - codes_alone.keys() == added
    only_pairs = semantic_id_quality(catalog, pairs=pairs).to_dict()
    added = {"pairs_sharing_prefix", "num_pairs", "random_pairs_sharing_prefix"}
    assert only_pairs.keys() - codes_alone.keys() == added
    table = items.to_tensor()[[items.item_ids.index(item) for item in catalog.item_ids]]
    for embeddings in (table, table.numpy()):
        assert semantic_id_quality(catalog, embeddings).to_dict() == neighbours


def test_a_sample_of_queries_is_drawn_by_seed(world):
    catalog, items, pairs = world
    runs = [semantic_id_quality(catalog, items, pairs, num_queries=7, seed=seed).to_dict() for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2] and runs[0]["num_queries"] == 7


def test_refusals(world):
    catalog, items, pairs = world
    with pytest.raises(UnknownItemError, match="'nobody'"):
        semantic_id_quality(catalog, pairs=[["i1", "nobody"]])
    with pytest.raises(UnknownItemError, match="`embeddings` lack 58 items"):
        semantic_id_quality(catalog, ItemEmbeddings(torch.eye(2), ["i1", "i2"]))
    with pytest.raises(UnknownItemError, match="`categories` lack 59"):
        semantic_id_quality(catalog, categories={"i1": "a"})
    with pytest.raises(ValueError, match="`categories` has 1 entries"):
        semantic_id_quality(catalog, categories=["a"])
    with pytest.raises(InvalidEmbeddingsError, match="each of the 60 items"):
        semantic_id_quality(catalog, torch.eye(3))
    for wrong in ([["i1", "i2", "i3"]], ["i1", "i2"]):
        with pytest.raises(ValueError, match=r"shape \(num_pairs, 2\)"):
            semantic_id_quality(catalog, pairs=wrong)
    with pytest.raises(ValueError, match="two different items"):
        semantic_id_quality(catalog, pairs=[["i1", "i1"]])
    for option in ({"num_neighbors": 0}, {"num_queries": -1}, {"ks": [0]}):
        with pytest.raises(ValueError, match="must be at least 1"):
            semantic_id_quality(catalog, items, pairs, **option)
    with pytest.raises(ValueError, match="at most the 1 neighbours"):
        embedding_hit_rate(np.array([[0, 1]]), np.array([0]), np.array([[1]]), ks=[2])
    with pytest.raises(ValueError, match="none of the items"):
        embedding_hit_rate(np.array([[1, 2]]), np.array([0]), np.array([[1]]), ks=[1])


@given(st.integers(2, 40), st.integers(1, 39), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_neighbors_are_the_nearest_in_any_blocks(num_items, num_neighbors, block, seed):
    num_neighbors = min(num_neighbors, num_items - 1)
    table = torch.randn(num_items, 4, generator=torch.Generator().manual_seed(seed))
    rows = np.arange(0, num_items, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_BLOCK_ROWS", block)
        found = nearest_neighbors(ItemEmbeddings(table), rows, num_neighbors)
    unit = torch.nn.functional.normalize(table, dim=1)
    similar = (unit @ unit.T).fill_diagonal_(-2)[rows]
    got = similar.gather(1, torch.from_numpy(found))
    torch.testing.assert_close(got, similar.sort(dim=1, descending=True).values[:, :num_neighbors])
    assert all(len(set(row)) == num_neighbors for row in found.tolist())


def test_saved_quality_goes_with_the_catalog(world, tmp_path):
    catalog, items, pairs = world
    catalog.quality = semantic_id_quality(catalog, items, pairs).to_dict()
    catalog.save_pretrained(tmp_path)
    loaded = SemanticIdCatalog.from_pretrained(tmp_path)
    assert loaded.quality == catalog.quality and "embedding_hit_rate" in loaded.quality
    config = json.loads((tmp_path / "semantic_ids.json").read_text())
    config["quality"] |= {"gini": "<script>", "utilization": [None], "perplexity": {"a": []}}
    (tmp_path / "semantic_ids.json").write_text(json.dumps(config))
    left = SemanticIdCatalog.from_pretrained(tmp_path).quality
    assert left == {k: v for k, v in catalog.quality.items() if k not in ("gini", "utilization", "perplexity")}


@pytest.mark.skipif(not BEAUTY.exists(), reason="needs ../shared/data/amazon2014/beauty")
def test_letters_codes_of_beauty():
    codes = json.loads((BEAUTY / "letter_sids.json").read_text())
    catalog = SemanticIdCatalog.from_codes(
        [int(item) for item in codes], list(codes.values()), codebook_sizes=[256] * 4, on_collision="keep"
    )
    pairs = adjacent_pairs(leave_one_out(read_sequences(BEAUTY / "sequences.txt"))["train"])
    quality = semantic_id_quality(catalog, pairs=pairs)
    assert quality.num_items == 12_101 and quality.collision_rate == pytest.approx(1 - 12_088 / 12_101)
    assert quality.pairs_sharing_prefix[0] > 5 * quality.random_pairs_sharing_prefix[0]
