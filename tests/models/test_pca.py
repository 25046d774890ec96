# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Principal components against scikit-learn's, whatever the batches."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from forge_hf.models.pca import principal_components

from .reconstruction_common import correlated_rows


@pytest.mark.parametrize("batch_size", [1, 7, 400])
def test_principal_components(batch_size):
    rows = correlated_rows(400, 9) + 1000  # far from the origin
    mean, variances, axes = principal_components(rows.split(batch_size))
    reference = PCA().fit(rows.double().numpy())
    np.testing.assert_allclose(mean, reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(variances * 400 / 399, reference.explained_variance_, rtol=1e-6)
    signs = np.sign((axes.numpy() * reference.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(axes, reference.components_ * signs, atol=1e-6)
    assert (axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_fewer_rows_than_dimensions():
    rows = correlated_rows(3, 9)
    _, variances, axes = principal_components([rows])
    assert (variances >= 0).all() and (variances[2:] < 1e-9 * variances[0]).all()
    torch.testing.assert_close(axes @ axes.T, torch.eye(9, dtype=torch.float64))
