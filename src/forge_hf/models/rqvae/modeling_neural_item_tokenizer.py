# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
What the item tokenizers that are trained share: an MLP encoder and decoder around a quantizer, and what their trainer
asks of them.

Imports only torch, transformers and its siblings: the same file is the Hub's remote code.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from .modeling_item_tokenizer import ItemTokenizerInputNormalization, ItemTokenizerPreTrainedModel


# The encoder goes through the rows in chunks whose widest layer has at most so many numbers (2 MB).
ENCODER_CHUNK_NUMEL = 2**18


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero."""


class ItemTokenizerMLP(nn.Module):
    """
    Linear layers with an activation between them, computed in the dtype of the input. With `residual=True` the input
    is added to the output, and the last layer starts at zero: the whole starts as the identity.
    """

    def __init__(self, config, sizes: list[int], residual: bool = False):
        super().__init__()
        kinds = [nn.Linear] * (len(sizes) - 2) + [ZeroLinear if residual else nn.Linear]
        self.layers = nn.ModuleList([kind(a, b) for kind, a, b in zip(kinds, sizes[:-1], sizes[1:], strict=True)])
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = config.dropout
        self.sizes, self.residual = sizes, residual

    def forward(self, inputs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        hidden_states = inputs
        for i, layer in enumerate(self.layers):
            if i > 0:
                hidden_states = self.activation(hidden_states)
                hidden_states = F.dropout(hidden_states, self.dropout, self.training and not deterministic)
            hidden_states = F.linear(hidden_states, layer.weight.to(hidden_states), layer.bias.to(hidden_states))
        return inputs + hidden_states if self.residual else hidden_states


class NeuralItemTokenizerModel(ItemTokenizerPreTrainedModel):
    """
    Base of the item tokenizers that [`RQVAETrainer`] trains. A subclass has an `input_normalization`, an `encoder` and
    a `decoder` (both [`ItemTokenizerMLP`]). What the trainer asks of it, beside `encode`:

    - `forward(embeddings)` gives `loss`, `reconstruction_loss`, `codes` and whatever further terms of the loss there
      are, such as `commitment_loss`. In evaluation mode the codes are those of `encode`.
    - `is_initialized` says whether what follows has been done. `set_input_statistics` is called before the first step.
    - With `has_codebooks`, `initialize_codebooks` is called next, on latents of `get_latents`.
    - `takes_tables` names the further vectors of the items that `forward` takes in training, with their widths.
    - With `takes_pairs`, `forward` takes `positives` and there must be pairs to train on. With `takes_users` too, the
      pairs are of a user and an item, and the model has a `user_tokenizer`, which is initialized from the users.
    - With `needs_full_batches`, a short last batch is refused.
    """

    has_codebooks = False
    takes_tables: dict[str, int] = {}
    takes_pairs = False
    takes_users = False
    needs_full_batches = False

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ItemTokenizerInputNormalization):
            init.zeros_(module.mean)
            init.ones_(module.std)

    @torch.no_grad()
    def set_input_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """
        Sets the item statistics that `config.input_normalization` uses.

        Args:
            mean (`torch.Tensor` of shape `(input_dim,)`):
                Mean of each dimension over the items.
            std (`torch.Tensor` of shape `(input_dim,)`):
                Standard deviation of each dimension over the items. A constant dimension (0) is left unscaled.
        """
        self.input_normalization.set_statistics(mean, std)

    def initialize_codebooks(
        self, latents: torch.Tensor, kmeans: Callable[[torch.Tensor, int, int], torch.Tensor]
    ) -> None:
        """
        Sets every codebook from data, of a model that `has_codebooks`.

        Args:
            latents (`torch.Tensor` of shape `(num_items, latent_dim)`):
                The encoder's output of a sample of items.
            kmeans (`Callable`):
                `kmeans(points, num_clusters, level)` gives the centroids of points.
        """
        raise NotImplementedError(f"{type(self).__name__} has no codebooks.")

    @torch.no_grad()
    def get_latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        """
        The encoder's output without its codes, of shape `(batch_size, latent_dim)`: what a k-means initializes
        codebooks from. `embeddings` is not checked.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            chunks = (self._latents(self._to_float64(chunk)).float() for chunk in self._chunks(embeddings))
            return torch.cat(list(chunks)).to(embeddings.device)

    def _encode_width(self) -> int:
        return max(self.encoder.sizes[0], self.encoder.sizes[-1])  # hidden layers go through smaller chunks

    def _latents(self, rows: torch.Tensor) -> torch.Tensor:
        """Latents of float64 rows, in float64."""
        chunks = rows.split(max(1, ENCODER_CHUNK_NUMEL // max(self.encoder.sizes)))
        return torch.cat([self.encoder(self.input_normalization(chunk), deterministic=True) for chunk in chunks])


def reconstruction_loss(decoded: torch.Tensor, target: torch.Tensor, kind: str, reduction: str) -> torch.Tensor:
    """
    Error of shape `()`: `"mse"` or `"l1"`, by `reduction` the `"mean"` or `"sum"` over dimensions, or `"cosine"`; the
    mean over the batch.
    """
    if kind == "cosine":
        return (1 - F.cosine_similarity(decoded, target, dim=-1)).mean()
    error = (F.mse_loss if kind == "mse" else F.l1_loss)(decoded, target, reduction="none")
    return error.sum(dim=-1).mean() if reduction == "sum" else error.mean()


__all__ = ["ItemTokenizerMLP", "NeuralItemTokenizerModel", "reconstruction_loss"]
