# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What every item tokenizer with a `fit` must do, beside what all must."""

import numpy as np
import pytest
import torch

from forge_hf import ItemEmbeddings, SemanticIdCatalog, SemanticIdTokenizer
from forge_hf.errors import InvalidEmbeddingsError
from forge_hf.hub import read_folder, render_card
from forge_hf.models import RandomIdsModel

from .modeling_common import ItemTokenizerTesterMixin


class SmallBatches(ItemEmbeddings):
    """Reads as a table larger than memory would be read."""

    def batches(self, batch_size=70):
        return super().batches(batch_size)


class FittedItemTokenizerTesterMixin(ItemTokenizerTesterMixin):
    """Set `model_class`, `lost_weight` and `get_config()`; where it has candidates, `last_level()` too."""

    def fit(self, embeddings, seed=0, item_class=ItemEmbeddings):
        return self.model_class(self.get_config()).fit(item_class(embeddings), seed=seed)

    @pytest.fixture
    def model(self, embeddings):
        return self.fit(embeddings).eval()

    def test_fit_is_of_its_seed_and_returns_the_model(self, model, embeddings):
        again, other = self.fit(embeddings), self.fit(embeddings, seed=1)
        assert type(again) is self.model_class and again.is_initialized
        self.assert_same_state(model, again)
        assert not torch.equal(model.encode(embeddings).codes, other.encode(embeddings).codes)

    def test_fit_changes_nothing_but_the_model(self, embeddings):
        before, state = embeddings.clone(), torch.random.get_rng_state()
        model = self.fit(embeddings)
        assert torch.equal(embeddings, before) and torch.equal(torch.random.get_rng_state(), state)
        self.assert_same_state(model, model.fit(ItemEmbeddings(embeddings)))

    def test_fit_from_a_memory_map_in_batches(self, model, embeddings, tmp_path):
        np.save(tmp_path / "items.npy", embeddings.numpy())
        items = SmallBatches.from_file(tmp_path / "items.npy")
        self.assert_same_state(model, self.model_class(self.get_config()).fit(items))

    def test_an_unfitted_model_refuses(self, embeddings, tmp_path):
        model = self.model_class(self.get_config())
        assert not model.is_initialized
        with pytest.raises(ValueError, match="`fit"):
            model.encode(embeddings)
        model.save_pretrained(tmp_path)
        assert not self.model_class.from_pretrained(tmp_path).is_initialized

    def test_fit_refuses_bad_items(self, embeddings):
        model = self.model_class(self.get_config())
        with pytest.raises(TypeError, match="`items` must be ItemEmbeddings"):
            model.fit(embeddings)
        with pytest.raises(InvalidEmbeddingsError, match="width"):
            model.fit(ItemEmbeddings(embeddings[:, 1:]))
        embeddings[[3, 17], 1] = torch.tensor([float("nan"), float("-inf")])
        with pytest.raises(InvalidEmbeddingsError, match="2 of 300 rows: 3, 17"):
            model.fit(ItemEmbeddings(embeddings))
        assert not model.is_initialized

    def test_fit_refuses_what_float32_cannot_square(self, embeddings):
        if self.model_class is RandomIdsModel:
            pytest.skip("takes no squares")
        with pytest.raises(InvalidEmbeddingsError, match="too large for float32. Scale them"):
            self.fit(1e25 * embeddings)
        assert self.fit(1e12 * embeddings).decode(self.fit(embeddings).encode(embeddings).codes).isfinite().all()

    def test_candidates(self, model, embeddings):
        if not model.has_candidates:
            with pytest.raises(ValueError, match="whose last level has a codebook"):
                model.encode(embeddings, num_candidates=2)
            return
        size = model.config.codebook_sizes[-1]
        output, codes = model.encode(embeddings, num_candidates=size), model.encode(embeddings).codes
        assert torch.equal(output.codes, codes) and torch.equal(output.candidates[:, 0], codes[:, -1])
        assert torch.equal(output.candidates.sort(dim=1).values, torch.arange(size).expand(len(codes), -1))
        points, codebook = self.last_level(model, embeddings.double(), codes)
        expected = torch.cdist(points, codebook.double()).pow(2).sort(dim=1).values
        torch.testing.assert_close(output.candidate_distances.double(), expected, rtol=1e-4, atol=1e-4)
        few = model.encode(embeddings, num_candidates=3)
        assert torch.equal(few.candidates, output.candidates[:, :3])
        for wrong in (0, size + 1):
            with pytest.raises(ValueError, match=f"between 1 and {size}"):
                model.encode(embeddings, num_candidates=wrong)

    def test_codes_do_not_depend_on_the_batch_split(self, model, embeddings):
        embeddings = torch.cat([embeddings, 10 * embeddings[:50], torch.zeros(1, embeddings.shape[1])])
        expected = model.encode(embeddings).codes
        for batch_size in (1, 7, 64):
            codes = torch.cat([model.encode(batch).codes for batch in embeddings.split(batch_size)])
            assert torch.equal(codes, expected), batch_size
        order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.encode(embeddings[order]).codes, expected[order])

    def test_chunks_are_of_no_matter(self, model, embeddings, monkeypatch):
        expected = model.encode(embeddings).codes
        monkeypatch.setattr("forge_hf.models.rqvae.modeling_item_tokenizer.ENCODE_CHUNK_NUMEL", 200)
        assert len(model._chunks(embeddings)) > 10
        assert torch.equal(model.encode(embeddings).codes, expected)

    def test_half_precision_rows(self, model, embeddings):
        assert torch.equal(model.encode(embeddings.half()).codes, model.encode(embeddings.half().float()).codes)
        with pytest.raises(ValueError, match="floating point"):
            model.encode(embeddings.int())

    def test_catalog_tokens_and_card(self, model, embeddings, tmp_path):
        codes, sizes = model.encode(embeddings).codes, model.config.codebook_sizes
        catalog = SemanticIdCatalog.from_codes(range(len(codes)), codes, codebook_sizes=sizes, on_collision="suffix")
        tokenizer = SemanticIdTokenizer(layout=catalog.layout)
        text = catalog.layout.to_text(catalog.codes[5])
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).replace(" ", "") == text
        model.save_pretrained(tmp_path)
        facts = read_folder(tmp_path)
        card = render_card(facts, "me/model")
        assert facts.kind == "item_tokenizer" and model.config.model_type in card
        assert "import forge_hf" in card
        assert not any(word in card for word in ("RQ-VAE", "rq-vae", "trust_remote_code"))
