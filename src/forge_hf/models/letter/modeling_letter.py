# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""LETTER model: the RQ-VAE with codes that follow what users do, and that are spread."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from ..clustering import balanced_kmeans
from ..rqvae.code_assignment import is_distributed
from ..rqvae.contrastive_loss import gather_rows, own_places
from ..rqvae.modeling_rqvae import RQVAEModel, RQVAEOutput
from .configuration_letter import LetterConfig


@dataclass
class LetterOutput(RQVAEOutput):
    r"""
    Output of [`LetterModel`]: that of an [`RQVAEModel`], and

    Args:
        collaborative_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `collaborative` is given and
            `return_loss=True`):
            Cross-entropy of finding the item's own collaborative vector among those of the batch, unweighted.
        diversity_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True` and
            `diversity_loss_weight` is above 0):
            Cross-entropy of finding the codes of the own group among all other codes, unweighted.
    """

    collaborative_loss: torch.FloatTensor | None = None
    diversity_loss: torch.FloatTensor | None = None


class LetterCollaborativeLoss(nn.Module):
    """
    LETTER's collaborative loss (eq. 3): an item's quantized latents are to pick the item's own collaborative vector by
    a softmax over inner products. The other candidates are the vectors of the batch, in training mode those of all
    processes. The vectors are constants.
    """

    def __init__(self, config: LetterConfig):
        super().__init__()
        self.projection = nn.Identity()
        if config.collaborative_dim != config.codebook_dim:
            self.projection = nn.Linear(config.collaborative_dim, config.codebook_dim, bias=False)

    def forward(self, quantized: torch.Tensor, collaborative: torch.Tensor) -> torch.Tensor:
        collaborative = collaborative.detach().float()
        candidates = gather_rows(collaborative) if self.training else collaborative
        return F.cross_entropy(quantized @ self.projection(candidates).T, own_places(quantized, candidates))


class LetterDiversityLoss(nn.Module):
    """
    LETTER's diversity loss (eq. 4): the code of an item is to pick, by a softmax over its inner products with all
    other codes of its level, a code of its own group. Groups come from a balanced k-means of each codebook. What moves
    are the codes.

    LETTER draws one code of the group for each item. This is the mean over all that it could draw, which is what its
    loss is on average, without the noise. A code that is alone in its group adds nothing. The mean over levels.
    """

    def __init__(self, config: LetterConfig):
        super().__init__()
        self.config = config
        self.register_buffer("groups", torch.zeros(sum(config.codebook_sizes), dtype=torch.int64))  # level by level
        self.register_buffer("step", torch.tensor(0))

    @torch.no_grad()
    def init_weights(self) -> None:
        init.zeros_(self.groups)
        init.zeros_(self.step)

    @torch.no_grad()
    def begin_step(self, codebooks: nn.ModuleList) -> None:
        """Counts the steps, and clusters the codes where it is time to."""
        if int(self.step) % self.config.diversity_update_steps == 0:
            groups = [
                balanced_kmeans(codebook.vectors.cpu(), self.config.diversity_num_clusters, num_iterations=10)[1]
                for codebook in codebooks
            ]
            self.groups.copy_(torch.cat(groups))
            if is_distributed():  # a k-means may differ in its last digits
                torch.distributed.broadcast(self.groups, src=0)
        self.step += 1

    def forward(self, codebooks: nn.ModuleList, codes: torch.Tensor) -> torch.Tensor:
        """The loss of shape `()`, for codes of shape `(batch_size, num_levels)`."""
        losses, num_clusters = [], self.config.diversity_num_clusters
        for level, groups in enumerate(self.groups.split(list(self.config.codebook_sizes))):
            weight, own = codebooks[level].vectors.clone(), codes[:, level]  # codes may be restarted after this
            vectors = F.embedding(own, weight)
            sizes = torch.bincount(groups, minlength=num_clusters)
            sums = weight.new_zeros(num_clusters, weight.shape[1]).index_add(0, groups, weight)
            num_others = sizes[groups[own]] - 1
            others = (sums[groups[own]] - vectors) / num_others.clamp(min=1)[:, None]
            scores = (vectors @ weight.T).scatter(1, own[:, None], -torch.inf)
            loss = scores.logsumexp(dim=1) - (vectors * others).sum(dim=1)
            losses.append((loss * (num_others > 0)).mean())
        return torch.stack(losses).mean()


class LetterModel(RQVAEModel):
    r"""
    LETTER's item tokenizer (https://huggingface.co/papers/2405.07314): an RQ-VAE whose loss also asks that quantized
    items resemble the items' collaborative vectors, and that the codes of a level are spread evenly.

    Collaborative vectors are those of any model of what users do, such as the item embeddings of a SASRec. They are
    needed in training alone: `encode` and `decode` are those of [`RQVAEModel`], and so is everything else. To train,
    give [`RQVAETrainer`] items with a table of them:

    ```python
    trainer = RQVAETrainer(model, args, train_dataset=items.join(collaborative=vectors))
    ```

    Args:
        config ([`LetterConfig`]):
            The architecture and the objective.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import LetterConfig, LetterModel

    >>> config = LetterConfig(input_dim=16, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[12, 12])
    >>> model = LetterModel(config).train()
    >>> output = model(torch.randn(5, 16), collaborative=torch.randn(5, 4))
    >>> output.collaborative_loss.shape, output.diversity_loss.shape
    (torch.Size([]), torch.Size([]))
    >>> model.encode(torch.randn(5, 16)).codes.shape
    torch.Size([5, 2])
    ```
    """

    config: LetterConfig
    base_model_prefix = "letter"
    output_class = LetterOutput
    _auto_class = None  # it needs forge_hf: its code isn't saved with it

    def __init__(self, config: LetterConfig):
        super().__init__(config)
        if config.collaborative_loss_weight > 0:
            self.collaborative_loss = LetterCollaborativeLoss(config)
        if config.diversity_loss_weight > 0:
            self.diversity_loss = LetterDiversityLoss(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LetterDiversityLoss):
            module.init_weights()

    @property
    def takes_tables(self) -> dict[str, int]:
        """Names and widths of the further vectors of items that it is trained on."""
        return {"collaborative": self.config.collaborative_dim} if self.config.collaborative_loss_weight > 0 else {}

    def _further_losses(self, quantized, codes, collaborative=None) -> dict[str, torch.Tensor]:
        losses = {}
        if collaborative is not None:
            losses["collaborative_loss"] = self.collaborative_loss(quantized[: len(collaborative)], collaborative)
        if self.config.diversity_loss_weight > 0:
            if self.training:
                self.diversity_loss.begin_step(self.quantizer.codebooks)
            losses["diversity_loss"] = self.diversity_loss(self.quantizer.codebooks, codes)
        return losses

    @can_return_tuple
    def forward(
        self,
        embeddings: torch.Tensor,
        positives: torch.Tensor | None = None,
        collaborative: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> LetterOutput:
        """
        As [`RQVAEModel.forward`], with two more terms of the loss. In training mode and under `torch.distributed`
        every process must give as many rows.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            positives (`torch.Tensor` of shape `(batch_size, input_dim)`, *optional*):
                As in [`RQVAEModel.forward`].
            collaborative (`torch.Tensor` of shape `(batch_size, collaborative_dim)`, *optional*):
                The collaborative vector of each item, for the collaborative loss.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the losses.
            return_dict (`bool`, *optional*):
                Whether to return a [`LetterOutput`] instead of a tuple.

        Returns:
            [`LetterOutput`]

        Raises:
            `ValueError`: as [`RQVAEModel.forward`], and if `collaborative` is of another shape, or the model has no
                collaborative loss.
        """
        if collaborative is not None:
            self._check_collaborative(collaborative, len(embeddings))
        return self._forward(embeddings, positives, return_loss, collaborative=collaborative)

    def _check_collaborative(self, collaborative: torch.Tensor, num_rows: int) -> None:
        if self.config.collaborative_loss_weight == 0:
            raise ValueError(
                "`collaborative` needs a model with a collaborative loss: set `collaborative_loss_weight` above 0."
            )
        shape = (num_rows, self.config.collaborative_dim)
        if collaborative.shape != shape or not collaborative.is_floating_point():
            raise ValueError(
                f"`collaborative` must be floating point of shape {shape}, one row for each of `embeddings`, but is "
                f"{collaborative.dtype} of shape {tuple(collaborative.shape)}."
            )


__all__ = ["LetterModel", "LetterOutput"]
