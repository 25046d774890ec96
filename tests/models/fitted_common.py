# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What every item tokenizer with a `fit` must do, beside what all item tokenizers must."""

import numpy as np
import pytest
import torch

from forge_hf import ItemEmbeddings, SemanticIdCatalog
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError
from forge_hf.hub.cards import render_card
from forge_hf.hub.folder import read_folder

from .modeling_common import ItemTokenizerTesterMixin


def correlated_rows(count, dim, seed=0):
    """Vectors far from the origin whose dimensions depend on each other, in a few blobs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) * 0.7 ** torch.arange(dim)
    blobs = 2 * torch.randn(10, dim, generator=torch.Generator().manual_seed(98))
    rows = torch.randn(count, dim, generator=generator) + blobs[torch.randint(10, (count,), generator=generator)]
    return rows @ mixing.T + 5


class FittedItemTokenizerTesterMixin(ItemTokenizerTesterMixin):
    """Needs the same two attributes; `get_config().codebook_sizes` at most 64 codes a level."""

    num_items = 600

    @pytest.fixture
    def rows(self):
        return correlated_rows(self.num_items, self.get_config().input_dim)

    def fitted(self, rows, **kwargs):
        items = rows if isinstance(rows, ItemEmbeddings) else ItemEmbeddings(rows)
        model = self.model_class(self.get_config())
        assert model.fit(items, **kwargs) is model
        return model

    def test_an_unfitted_model_refuses(self, rows, tmp_path):
        model = self.model_class(self.get_config())
        model.save_pretrained(tmp_path)
        for unfitted in (model, self.model_class.from_pretrained(tmp_path)):
            assert not unfitted.is_initialized
            with pytest.raises(ValueError, match="fit"):
                unfitted.encode(rows)
            with pytest.raises(ValueError, match="fit"):
                unfitted.decode(torch.zeros(1, self.get_config().num_levels, dtype=torch.long))

    def test_fit_save_load(self, rows, tmp_path):
        model = self.fitted(rows)
        assert model.is_initialized
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, dtype="bfloat16")
        self.assert_same_state(model, loaded)
        assert loaded.is_initialized and torch.equal(loaded.encode(rows).codes, model.encode(rows).codes)
        assert all(tensor.dtype in (torch.float32, torch.bool) for tensor in model.state_dict().values())

    def test_seed(self, rows):
        model = self.fitted(rows, seed=3)
        torch.manual_seed(7)
        np.random.seed(7)
        self.assert_same_state(model, self.fitted(rows, seed=3))
        other = self.fitted(rows, seed=4).state_dict()
        assert any(not torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())

    def test_fit_again_forgets_what_was(self, rows):
        model = self.fitted(rows)
        other = correlated_rows(self.num_items, rows.shape[1], seed=5) * 2 - 30
        self.assert_same_state(model.fit(ItemEmbeddings(other)), self.fitted(other))

    def test_fit_from_a_memory_map_and_from_some_of_its_rows(self, rows, tmp_path):
        np.save(tmp_path / "items.npy", rows.numpy())
        items = ItemEmbeddings.from_file(tmp_path / "items.npy")
        self.assert_same_state(self.fitted(rows), self.fitted(items))
        some = np.arange(0, len(rows), 2)
        self.assert_same_state(self.fitted(rows[some]), self.fitted(items.select(some)))

    def test_fit_on_a_sample(self, rows):
        size = max(self.get_config().codebook_sizes)
        model, whole = self.fitted(rows, sample_size=300), self.fitted(rows)
        assert any(not torch.equal(a, b) for a, b in zip(model.buffers(), whole.buffers(), strict=True))
        assert self.relative_error(model, rows) < 2 * self.relative_error(whole, rows)
        with pytest.raises(ValueError, match="`sample_size`"):
            self.fitted(rows, sample_size=1)
        assert size <= 300

    @staticmethod
    def relative_error(model, rows):
        error = model.decode(model.encode(rows).codes) - rows
        return float(error.pow(2).sum() / (rows - rows.mean(dim=0)).pow(2).sum())

    def test_reconstruction(self, rows):
        model = self.fitted(rows)
        codes = model.encode(rows).codes
        errors = [(model.decode(codes[:, :n]) - rows).pow(2).mean() for n in range(1, codes.shape[1] + 1)]
        assert all(after < before for before, after in zip(errors, errors[1:], strict=False))
        assert self.relative_error(model, rows) < 0.5

    def test_bad_items(self, rows):
        bad = rows.clone()
        bad[[4, 9], 1] = torch.tensor([float("nan"), float("inf")])
        with pytest.raises(InvalidEmbeddingsError, match="2 of 600 rows: 4, 9"):
            self.fitted(bad)
        with pytest.raises(InvalidEmbeddingsError, match="`codebook_sizes`"):
            self.fitted(rows[: max(self.get_config().codebook_sizes) - 1])
        with pytest.raises(InvalidEmbeddingsError, match="width"):
            self.fitted(rows[:, 1:])
        with pytest.raises(InvalidEmbeddingsError, match="empty"):
            self.fitted(rows[:0])
        with pytest.raises(DuplicateItemError):
            self.fitted(ItemEmbeddings(rows, [0] * len(rows)))
        with pytest.raises(TypeError, match="ItemEmbeddings"):
            self.model_class(self.get_config()).fit(rows)

    def test_as_many_items_as_codes_and_equal_items(self, rows):
        few = rows[: max(self.get_config().codebook_sizes)]
        model = self.fitted(few)
        assert model.decode(model.encode(few).codes).isfinite().all()
        equal = rows[:1].expand(200, -1)
        model = self.fitted(equal)
        codes = model.encode(equal).codes
        assert len(codes.unique(dim=0)) == 1
        torch.testing.assert_close(model.decode(codes), equal, rtol=1e-4, atol=1e-3)

    def test_codes_do_not_depend_on_the_batch_split(self, rows):
        model = self.fitted(rows)
        more = torch.cat([rows[:150], model.decode(model.encode(rows[:150]).codes)])
        expected = model.encode(more).codes
        for batch_size in (1, 7, 256):
            assert torch.equal(torch.cat([model.encode(part).codes for part in more.split(batch_size)]), expected)
        assert torch.equal(model.encode(more.flip(0)).codes.flip(0), expected)

    def test_catalog_folder_and_card(self, rows, tmp_path):
        model = self.fitted(rows)
        codes = model.encode(rows).codes
        catalog = SemanticIdCatalog.from_codes(
            list(range(len(rows))), codes, codebook_sizes=model.config.codebook_sizes, on_collision="suffix"
        )
        assert catalog.items_for(catalog.codes_for([5])) == [[5]]
        model.save_pretrained(tmp_path)
        facts = read_folder(tmp_path)
        assert facts.kind == "item_tokenizer"
        assert f"semantic ID of {codes.shape[1]} codes" in render_card(facts, "me/model")
