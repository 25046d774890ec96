# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What item tokenizers must do that are fitted to a sample and reconstruct embeddings, beside what all must."""

import numpy as np
import pytest
import torch

from forge_hf import ItemEmbeddings
from forge_hf.errors import DuplicateItemError, InvalidEmbeddingsError

from .fitted_common import FittedItemTokenizerTesterMixin


def correlated_rows(count, dim, seed=0):
    """Vectors far from the origin whose dimensions depend on each other, in a few blobs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) * 0.7 ** torch.arange(dim)
    blobs = 2 * torch.randn(10, dim, generator=torch.Generator().manual_seed(98))
    rows = torch.randn(count, dim, generator=generator) + blobs[torch.randint(10, (count,), generator=generator)]
    return rows @ mixing.T + 5


class ReconstructingItemTokenizerTesterMixin(FittedItemTokenizerTesterMixin):
    """Needs what its base needs, and at most 300 codes a level."""

    @pytest.fixture
    def rows(self):
        return correlated_rows(600, self.get_config().input_dim)

    def fitted(self, rows, **kwargs):
        items = rows if isinstance(rows, ItemEmbeddings) else ItemEmbeddings(rows)
        model = self.model_class(self.get_config())
        assert model.fit(items, **kwargs) is model
        return model

    def test_fit_again_forgets_what_was(self, rows):
        model = self.fitted(rows)
        other = correlated_rows(len(rows), rows.shape[1], seed=5) * 2 - 30
        self.assert_same_state(model.fit(ItemEmbeddings(other)), self.fitted(other))

    def test_fit_on_a_sample(self, rows):
        model, whole = self.fitted(rows, sample_size=300), self.fitted(rows)
        assert any(not torch.equal(a, b) for a, b in zip(model.buffers(), whole.buffers(), strict=True))
        assert self.relative_error(model, rows) < 2 * self.relative_error(whole, rows)
        with pytest.raises(ValueError, match="`sample_size`"):
            self.fitted(rows, sample_size=1)

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

    def test_too_few_items_and_items_twice(self, rows):
        with pytest.raises(InvalidEmbeddingsError, match="`codebook_sizes`"):
            self.fitted(rows[: min(self.get_config().codebook_sizes) - 1])
        with pytest.raises(InvalidEmbeddingsError, match="empty"):
            self.fitted(rows[:0])
        with pytest.raises(DuplicateItemError):
            self.fitted(ItemEmbeddings(rows, [0] * len(rows)))

    def test_fit_on_some_rows_of_a_memory_map(self, rows, tmp_path):
        np.save(tmp_path / "items.npy", rows.numpy())
        some = np.arange(0, len(rows), 2)
        items = ItemEmbeddings.from_file(tmp_path / "items.npy").select(some)
        self.assert_same_state(self.fitted(rows[some]), self.fitted(items))

    def test_as_many_items_as_codes_and_equal_items(self, rows):
        few = rows[: max(self.get_config().codebook_sizes)]
        model = self.fitted(few)
        assert model.decode(model.encode(few).codes).isfinite().all()
        equal = rows[:1].expand(200, -1)
        model = self.fitted(equal)
        codes = model.encode(equal).codes
        assert len(codes.unique(dim=0)) == 1
        torch.testing.assert_close(model.decode(codes), equal, rtol=1e-4, atol=1e-3)
