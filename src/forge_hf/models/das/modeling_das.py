# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""DAS model: an RQ-VAE of items with one of users beside it, both aligned with collaborative vectors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils.generic import can_return_tuple

from ..rqvae.contrastive_loss import gather_rows, own_places
from ..rqvae.modeling_rqvae import RQVAEEncoderOutput, RQVAEModel, RQVAEOutput
from .configuration_das import DASConfig


@dataclass
class DASOutput(RQVAEOutput):
    r"""
    Output of [`DASModel`]: that of an [`RQVAEModel`] for the items, and, returned when users are given and
    `return_loss=True`, where the weight of the term is above 0:

    Args:
        user_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            The loss of the users' RQ-VAE.
        u2i_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Alignment of quantized users with their items, and of quantized items with their users; the mean of both.
        i2i_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Alignment of quantized items with themselves.
        u2u_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Alignment of quantized users with themselves.
        co_i2i_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Alignment of quantized items with other items of the same user.
        co_u2u_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Alignment of quantized users with other users of the same item.
    """

    user_loss: torch.FloatTensor | None = None
    u2i_loss: torch.FloatTensor | None = None
    i2i_loss: torch.FloatTensor | None = None
    u2u_loss: torch.FloatTensor | None = None
    co_i2i_loss: torch.FloatTensor | None = None
    co_u2u_loss: torch.FloatTensor | None = None


def alignment_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    query_rows: torch.Tensor,
    key_rows: torch.Tensor,
    temperature: float,
    same_kind: bool = True,
) -> torch.Tensor:
    """
    InfoNCE of cosines: query `i` is to pick key `i` among the keys of the batch. No negatives are other places of the
    same key, other keys of the same query, and the query itself. A query without a key, of row -1, adds nothing.

    Args:
        queries (`torch.Tensor` of shape `(batch_size, dim)`):
            This process's queries.
        keys (`torch.Tensor` of shape `(num_keys, dim)`):
            The keys of all processes, in the order of [`gather_rows`].
        query_rows (`torch.Tensor` of shape `(num_keys,)`):
            Whose query goes with each key.
        key_rows (`torch.Tensor` of shape `(num_keys,)`):
            Whose key it is, or -1.
        temperature (`float`):
            What cosines are divided by.
        same_kind (`bool`, *optional*, defaults to `True`):
            Whether both are items, or both users, so that equal rows are the same one.
    """
    places = own_places(queries, keys)
    scores = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    own_queries, own_keys = query_rows[places, None], key_rows[places, None]
    left_out = (own_queries == query_rows) | (own_keys == key_rows) | (key_rows < 0)
    if same_kind:
        left_out |= own_queries == key_rows
    left_out = left_out.scatter(1, places[:, None], False)
    losses = F.cross_entropy(scores.masked_fill(left_out, -torch.inf), places, reduction="none")
    return (losses * (own_keys[:, 0] >= 0)).mean()


class DASModel(RQVAEModel):
    r"""
    Dual-aligned semantic IDs (DAS, https://huggingface.co/papers/2508.10584): an RQ-VAE of items and one of users,
    trained jointly so that what they quantize agrees with collaborative vectors of items and users. Contrastive views
    are `u2i` (a user with an item that the user had, and back), `i2i` and `u2u` (an item or a user with itself), and
    `co_i2i` and `co_u2u` (with another item of the same user, another user of the same item), each with a weight of
    its own.

    `encode` and `decode` are for items, `encode_users` and `decode_users` for users. Collaborative vectors and users
    are needed in training alone. [`RQVAETrainer`] trains it with [`UserItemPairs`] as `pairs`: batches of items to
    reconstruct and batches of interactions take turns.

    What differs from the paper: its code and weights aren't published; the weights are our choice. It learns the
    collaborative vectors together with the codes and splits them into interest on one side, conformity and popularity
    on the other, of which it aligns the first. Here they come from a model trained before and are constants but for a
    linear map (`collaborative_dim`), and there is no such split: give vectors of a model without popularity bias, if
    that matters. Alignments are from the quantized vectors to the collaborative ones only.

    Args:
        config ([`DASConfig`]):
            The architecture and the objective.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import DASConfig, DASModel

    >>> config = DASConfig(input_dim=16, user_input_dim=12, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 8])
    >>> model = DASModel(config)
    >>> model.encode(torch.randn(5, 16)).codes.shape, model.encode_users(torch.randn(3, 12)).codes.shape
    (torch.Size([5, 2]), torch.Size([3, 2]))
    ```
    """

    config: DASConfig
    base_model_prefix = "das"
    output_class = DASOutput
    takes_pairs = True
    takes_users = True
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    def __init__(self, config: DASConfig):
        super().__init__(config)
        self.user_tokenizer = RQVAEModel(config.user_config)
        self.projection = nn.Identity()
        if config.collaborative_dim != config.codebook_dim:
            self.projection = nn.Linear(config.collaborative_dim, config.codebook_dim, bias=False)
        self.post_init()

    @property
    def is_initialized(self) -> bool:
        """Whether every codebook, of items and users, has been initialized from data."""
        return super().is_initialized and self.user_tokenizer.is_initialized

    def encode_users(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> RQVAEEncoderOutput:
        """The codes of users, from embeddings of shape `(batch_size, user_input_dim)`; as `encode` for items."""
        return self.user_tokenizer.encode(embeddings, num_candidates)

    def decode_users(self, codes: torch.Tensor) -> torch.Tensor:
        """User embeddings of shape `(batch_size, user_input_dim)`; as `decode` for items."""
        return self.user_tokenizer.decode(codes)

    def _further_losses(self, quantized, codes, user_embeddings=None, **collaborative) -> dict[str, torch.Tensor]:
        if user_embeddings is None:
            return {}
        user = self.user_tokenizer(user_embeddings)
        # Of all processes: collaborative vectors of each item and the other item, each user and the other user.
        everything = {name: gather_rows(rows) if self.training else rows for name, rows in collaborative.items()}
        (i, co_i), (u, co_u) = everything["item_rows"].T, everything["user_rows"].T
        vectors = (everything[f"{kind}_collaborative"].detach().float() for kind in ("item", "user"))
        (items, co_items), (users, co_users) = (self.projection(both).unbind(dim=1) for both in vectors)

        def align(*args, **kwargs):
            return alignment_loss(*args, self.config.temperature, **kwargs)

        def align_users_and_items():
            loss = align(user.quantized, items, u, i, same_kind=False)
            return (loss + align(quantized, users, i, u, same_kind=False)) / 2

        views = {
            "u2i_loss": align_users_and_items,
            "i2i_loss": lambda: align(quantized, items, i, i),
            "u2u_loss": lambda: align(user.quantized, users, u, u),
            "co_i2i_loss": lambda: align(quantized, co_items, i, co_i),
            "co_u2u_loss": lambda: align(user.quantized, co_users, u, co_u),
        }
        losses = {name: view() for name, view in views.items() if getattr(self.config, f"{name}_weight") > 0}
        return {"user_loss": user.loss} | losses

    @can_return_tuple
    def forward(
        self,
        embeddings: torch.Tensor,
        user_embeddings: torch.Tensor | None = None,
        item_collaborative: torch.Tensor | None = None,
        user_collaborative: torch.Tensor | None = None,
        item_rows: torch.Tensor | None = None,
        user_rows: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> DASOutput:
        """
        As [`RQVAEModel.forward`] of items; with users, the step on interactions that [`UserItemPairs`] gives: the loss
        is that of both RQ-VAEs and of the alignments. In training mode and under `torch.distributed` every process
        must give as many rows.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            user_embeddings (`torch.Tensor` of shape `(batch_size, user_input_dim)`, *optional*):
                The embedding of a user who had each item. The arguments that follow are needed with it.
            item_collaborative (`torch.Tensor` of shape `(batch_size, 2, collaborative_dim)`, *optional*):
                Collaborative vectors of the item, and of another item of the same user.
            user_collaborative (`torch.Tensor` of shape `(batch_size, 2, collaborative_dim)`, *optional*):
                Collaborative vectors of the user, and of another user of the same item.
            item_rows (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
                A number for each of the two items, equal where the item is. -1 where there is no other item.
            user_rows (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
                A number for each of the two users, equal where the user is. -1 where there is no other user.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the losses.
            return_dict (`bool`, *optional*):
                Whether to return a [`DASOutput`] instead of a tuple.

        Returns:
            [`DASOutput`]: reconstruction, latents and codes are the items'.

        Raises:
            `ValueError`: as [`RQVAEModel.forward`], and if of the arguments of an interaction some are missing or of
                another shape.
        """
        names = ("user_embeddings", "item_collaborative", "user_collaborative", "item_rows", "user_rows")
        values = (user_embeddings, item_collaborative, user_collaborative, item_rows, user_rows)
        given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if given:
            size, dim = len(embeddings), self.config.collaborative_dim
            shapes = ((size, self.config.user_input_dim), (size, 2, dim), (size, 2, dim), (size, 2), (size, 2))
            for name, shape in zip(names, shapes, strict=True):
                if name not in given or given[name].shape != shape:
                    shown = f"has shape {tuple(given[name].shape)}" if name in given else "is missing"
                    raise ValueError(f"`{name}` must have shape {shape}, as the other arguments have, but {shown}.")
        return self._forward(embeddings, None, return_loss, **given)


__all__ = ["DASModel", "DASOutput", "alignment_loss"]
