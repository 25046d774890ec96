# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQ-VAE model. Imports only torch, transformers and its siblings: the same files are the Hub's remote code."""

import tempfile
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .code_assignment import (
    balanced_codes,
    is_distributed,
    nearest_candidates,
    nearest_codes,
)
from .configuration_rqvae import RQVAEConfig
from .contrastive_loss import INITIAL_LOGIT_SCALE, RQVAEContrastiveLoss


# Encoding goes through the rows in chunks, and the encoder in smaller ones whose widest layer has at most so many
# numbers (2 MB).
ENCODE_CHUNK_SIZE = 2**15
ENCODER_CHUNK_NUMEL = 2**18


@dataclass
class RQVAEOutput(ModelOutput):
    r"""
    Output of [`RQVAEModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            The weighted sum of the terms below. Of pairs, the reconstruction loss is no part of it.
        reconstruction_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            Error of the reconstruction, on normalized inputs.
        commitment_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            Distance of the latents to their (fixed) codes, unweighted.
        codebook_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True` and
            `codebook_update="gradient"`):
            Distance of the codes to their (fixed) latents, unweighted.
        contrastive_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `positives` is given and
            `return_loss=True`):
            Mean of `contrastive_terms`, unweighted.
        contrastive_terms (`torch.FloatTensor` of shape `(3,)`, *optional*, returned with `contrastive_loss`):
            The terms `self`, `original` and `cross` of the contrastive loss.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, input_dim)`):
            The embeddings, decoded from their codes.
        latents (`torch.FloatTensor` of shape `(batch_size, codebook_dim)`):
            The encoder's output.
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The codes that were used. In evaluation mode these are the codes of [`~RQVAEModel.encode`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    codebook_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    contrastive_terms: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None


@dataclass
class RQVAEEncoderOutput(ModelOutput):
    r"""
    Output of [`RQVAEModel.encode`].

    Args:
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The code of each level.
        latents (`torch.FloatTensor` of shape `(batch_size, codebook_dim)`):
            The encoder's output, before quantization.
        candidates (`torch.LongTensor` of shape `(batch_size, num_candidates)`, *optional*, returned when
            `num_candidates` is given):
            The nearest codes of the last level, given the item's own codes of the levels before. The first is the
            item's own.
        candidate_distances (`torch.FloatTensor` of shape `(batch_size, num_candidates)`, *optional*, returned when
            `num_candidates` is given):
            Their squared distances to what the levels before left over.
    """

    codes: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    candidates: torch.LongTensor | None = None
    candidate_distances: torch.FloatTensor | None = None


def rotate_to(latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """
    The rotation trick (https://huggingface.co/papers/2410.06424, eq. 4): equals `quantized`, with the gradient of
    `(|q| / |z|) R z` for the rotation `R` from `z = latents` to `q = quantized`, both `R` and the scale held fixed.
    """
    quantized = quantized.detach()
    z = latents.detach()
    z_norm, q_norm = z.norm(dim=-1, keepdim=True), quantized.norm(dim=-1, keepdim=True)
    z_hat, q_hat = F.normalize(z, dim=-1), F.normalize(quantized, dim=-1)
    scale = torch.where(z_norm > 0, q_norm / z_norm.clamp(min=1e-12), torch.ones_like(z_norm))
    middle = F.normalize(z_hat + q_hat, dim=-1)

    def dot(a, b):
        return (a * b).sum(-1, keepdim=True)

    rotated = scale * (latents - 2 * dot(latents, middle) * middle + 2 * dot(latents, z_hat) * q_hat)
    return rotated + (quantized - rotated).detach()  # exactly `quantized`, whatever the rounding of the rotation


class RQVAEInputNormalization(nn.Module):
    """Moves embeddings to where the encoder works best, and back, by statistics of the training items."""

    def __init__(self, config: RQVAEConfig):
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("std", torch.ones(config.input_dim))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings - self.mean.to(embeddings)) / self.std.to(embeddings)

    def inverse(self, normalized: torch.Tensor) -> torch.Tensor:
        return normalized * self.std + self.mean


class RQVAEMLP(nn.Module):
    """Linear layers with an activation between them, computed in the dtype of the input."""

    def __init__(self, config: RQVAEConfig, sizes: list[int]):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = config.dropout

    def forward(self, hidden_states: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            if i > 0:
                hidden_states = self.activation(hidden_states)
                hidden_states = F.dropout(hidden_states, self.dropout, self.training and not deterministic)
            hidden_states = F.linear(hidden_states, layer.weight.to(hidden_states), layer.bias.to(hidden_states))
        return hidden_states


class RQVAECodebook(nn.Module):
    """The codes of one level, with their running usage and, with `codebook_update="ema"`, their running sums."""

    def __init__(self, config: RQVAEConfig, level: int):
        super().__init__()
        self.size = config.codebook_sizes[level]
        self.assignment = config.level_assignments[level]
        self.config = config
        weight = torch.zeros(self.size, config.codebook_dim)
        if config.codebook_update == "ema":
            # A buffer, because a reload makes every parameter trainable.
            self.register_buffer("weight", weight)
            self.register_buffer("embed_sum", torch.zeros_like(weight))
        else:
            self.weight = nn.Parameter(weight)
        self.register_buffer("cluster_size", torch.ones(self.size))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def set(self, centroids: torch.Tensor) -> None:
        self.weight.copy_(centroids)
        self.cluster_size.fill_(1)
        if self.config.codebook_update == "ema":
            self.embed_sum.copy_(centroids)
        self.initialized.fill_(True)

    @torch.no_grad()
    def update(self, residuals: torch.Tensor, codes: torch.Tensor) -> None:
        """One step of the running usage, the EMA codes and the dead codes' restart; the same on every process."""
        ema, threshold = self.config.codebook_update == "ema", self.config.dead_code_threshold
        if not ema and threshold == 0:
            return
        # The last column counts, the others sum: one collective.
        batch = F.pad(residuals.detach(), (0, 1), value=1.0)
        totals = batch.new_zeros(self.size, batch.shape[1]).index_add_(0, codes, batch)
        if is_distributed():
            torch.distributed.all_reduce(totals)
        totals *= self.size / totals[:, -1].sum()  # the usage of an evenly used code is 1, whatever the batch size
        step = 1 - self.config.ema_decay
        self.cluster_size.lerp_(totals[:, -1], step)
        if ema:
            self.embed_sum.lerp_(totals[:, :-1], step)
            total, epsilon = self.cluster_size.sum(), self.config.ema_epsilon
            smoothed = (self.cluster_size + epsilon) / (total + self.size * epsilon) * total
            self.weight.copy_(self.embed_sum / smoothed[:, None])
        if threshold > 0:
            self._restart_dead_codes(residuals.detach(), self.cluster_size < threshold)

    def _restart_dead_codes(self, residuals: torch.Tensor, dead: torch.Tensor) -> None:
        dead = dead.nonzero()[:, 0]
        if len(dead) == 0:  # equal on every process, since the usage is
            return
        # Which codes restart (last column) and where. The first process decides, so that all stay equal.
        restarts = residuals.new_zeros(self.size, residuals.shape[1] + 1)
        chosen = residuals[torch.randperm(len(residuals), device=residuals.device)[: len(dead)]]
        restarts[dead[: len(chosen)]] = F.pad(chosen, (0, 1), value=1.0)
        if is_distributed():
            torch.distributed.broadcast(restarts, src=0)
        restarted = restarts[:, -1] > 0
        self.weight[restarted] = restarts[restarted, :-1]
        self.cluster_size[restarted] = 1
        if self.config.codebook_update == "ema":
            self.embed_sum[restarted] = restarts[restarted, :-1]


class RQVAEResidualQuantizer(nn.Module):
    """Codebooks that each quantize what the ones before left over."""

    def __init__(self, config: RQVAEConfig):
        super().__init__()
        self.codebooks = nn.ModuleList([RQVAECodebook(config, level) for level in range(config.num_levels)])

    @torch.no_grad()
    def assign(self, latents: torch.Tensor, training: bool = False) -> torch.Tensor:
        """Codes of shape `(batch_size, levels)`: the nearest, exactly so where `latents` are float64."""
        residuals, codes, memory = latents, [], None
        for codebook in self.codebooks:
            weight = codebook.weight.to(residuals.device)
            if training and codebook.assignment == "sinkhorn":
                # One memory for the distances of all levels: fresh memory costs as much as what is done in it.
                shape = (len(latents), codebook.size)
                memory = latents.new_empty(shape) if memory is None or memory.shape != shape else memory
                epsilon, iterations = codebook.config.sinkhorn_epsilon, codebook.config.sinkhorn_iterations
                codes.append(balanced_codes(residuals, weight, epsilon, iterations, out=memory))
            else:
                codes.append(nearest_codes(residuals, weight))
            residuals = residuals - weight[codes[-1]]
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def candidates(
        self, latents: torch.Tensor, codes: torch.Tensor, num_candidates: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest codes of the last level and their squared distances, given the codes of the levels before."""
        residuals, weights = latents, [codebook.weight.to(latents.device) for codebook in self.codebooks]
        for level, weight in enumerate(weights[:-1]):
            residuals = residuals - weight[codes[:, level]]
        return nearest_candidates(residuals, weights[-1], codes[:, -1], num_candidates)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """The vectors of each level, of shape `(batch_size, codes.shape[1], codebook_dim)`; their sum is quantized."""
        vectors = [F.embedding(codes[:, level], self.codebooks[level].weight) for level in range(codes.shape[1])]
        return torch.stack(vectors, dim=1)


class RQVAEPreTrainedModel(PreTrainedModel):
    """Weight initialization, saving and loading of the RQ-VAE."""

    config: RQVAEConfig
    base_model_prefix = "rqvae"
    main_input_name = "embeddings"
    # All but the `initialized` flags: the model is small, and rounded weights would move items to other codes.
    _keep_in_fp32_modules_strict = [
        "input_normalization", "encoder", "decoder", "weight", "embed_sum", "cluster_size", "logit_scale",
    ]  # fmt: skip

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, RQVAEInputNormalization):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, RQVAECodebook):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.ones_(module.cluster_size)
            init.zeros_(module.initialized)
            if self.config.codebook_update == "ema":
                init.copy_(module.embed_sum, module.weight * module.cluster_size[:, None])
        elif isinstance(module, RQVAEContrastiveLoss):
            for scale in module.logit_scales:
                init.constant_(scale, INITIAL_LOGIT_SCALE)

    def push_to_hub(self, repo_id: str, **kwargs):
        """
        Uploads the model to the Hub in one commit, with its code and a card.

        Args:
            repo_id (`str`):
                Id of the repository, made if there is none.
            kwargs:
                As in [`forge_hf.push_folder`]: `private`, `token`, `revision`, `commit_message`, `card_metadata` and
                `overwrite_card`.

        Returns:
            `huggingface_hub.CommitInfo`
        """
        try:
            from forge_hf.hub import push_folder
        except ImportError:  # where this file is the Hub's remote code
            return super().push_to_hub(repo_id, **kwargs)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, **kwargs)


class RQVAEModel(RQVAEPreTrainedModel):
    r"""
    Residual-quantized variational autoencoder of item embeddings (https://huggingface.co/papers/2203.01941), the item
    tokenizer of TIGER and FORGE: an MLP encoder, one codebook a level, and a mirrored MLP decoder.

    Weights are fp32 whatever the dtype of the load. Use [`RQVAETrainer`] to train one: it also sets the input
    statistics and initializes the codebooks from data.

    Args:
        config ([`RQVAEConfig`]):
            The architecture and the objective.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import RQVAEConfig, RQVAEModel

    >>> model = RQVAEModel(RQVAEConfig(input_dim=16, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 8]))
    >>> codes = model.encode(torch.randn(5, 16)).codes
    >>> codes.shape
    torch.Size([5, 2])
    >>> model.decode(codes[:, :1]).shape
    torch.Size([5, 16])
    ```
    """

    def __init__(self, config: RQVAEConfig):
        super().__init__(config)
        sizes = [config.input_dim, *config.hidden_sizes, config.codebook_dim]
        self.input_normalization = RQVAEInputNormalization(config)
        self.encoder = RQVAEMLP(config, sizes)
        self.quantizer = RQVAEResidualQuantizer(config)
        self.decoder = RQVAEMLP(config, sizes[::-1])
        if config.contrastive_loss_weight > 0:
            self.contrastive_loss = RQVAEContrastiveLoss()
        self.post_init()

    @property
    def is_initialized(self) -> bool:
        """Whether every codebook has been initialized from data."""
        return all(bool(codebook.initialized) for codebook in self.quantizer.codebooks)

    def get_codebook(self, level: int) -> torch.Tensor:
        """The codes of a level, of shape `(codebook_sizes[level], codebook_dim)`, detached."""
        return self.quantizer.codebooks[level].weight.detach()

    def set_codebook(self, level: int, centroids: torch.Tensor) -> None:
        """
        Sets the codes of a level from data, starts its running statistics afresh and marks it as initialized.

        Args:
            level (`int`):
                The level, from 0.
            centroids (`torch.Tensor` of shape `(codebook_sizes[level], codebook_dim)`):
                The codes.

        Raises:
            `ValueError`: if the shape is not the codebook's, or a value is not finite.
        """
        codebook = self.quantizer.codebooks[level]
        if centroids.shape != codebook.weight.shape or not centroids.isfinite().all():
            raise ValueError(
                f"`centroids` of level {level} must be finite and of shape {tuple(codebook.weight.shape)}, "
                f"but has shape {tuple(centroids.shape)}."
            )
        codebook.set(centroids)

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
        if mean.shape != (self.config.input_dim,) or std.shape != mean.shape:
            raise ValueError(
                f"`mean` and `std` must have shape ({self.config.input_dim},), "
                f"but have {tuple(mean.shape)} and {tuple(std.shape)}."
            )
        if self.config.input_normalization == "none":
            return
        if self.config.input_normalization == "center":
            std = std.pow(2).mean().sqrt().expand_as(std)
        self.input_normalization.mean.copy_(mean)
        self.input_normalization.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def _check_embeddings(self, embeddings: torch.Tensor) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.input_dim or len(embeddings) == 0:
            raise ValueError(
                f"`embeddings` must have shape (batch_size, {self.config.input_dim}) with at least one row, "
                f"but has shape {tuple(embeddings.shape)}."
            )
        if not embeddings.is_floating_point():
            raise ValueError(f"`embeddings` must be floating point, but is {embeddings.dtype}.")

    def _check_finite(self, embeddings: torch.Tensor) -> None:
        chunks = embeddings.split(ENCODE_CHUNK_SIZE)
        # A sum is quicker to look at, and finite only if all of its terms are.
        if all(bool(chunk.sum(dtype=torch.float32).isfinite()) for chunk in chunks):
            return
        bad = torch.cat([~chunk.float().isfinite().all(dim=1) for chunk in chunks]).nonzero()[:, 0]
        if len(bad) > 0:
            rows = ", ".join(map(str, bad[:5].tolist())) + (", …" if len(bad) > 5 else "")
            raise ValueError(f"`embeddings` must be finite, but {len(bad)} rows have NaN or infinite values: {rows}.")

    def _check_positives(self, positives: torch.Tensor, embeddings: torch.Tensor) -> None:
        if self.config.contrastive_loss_weight == 0:
            raise ValueError(
                "`positives` need a model with a contrastive loss: set `contrastive_loss_weight` above 0."
            )
        if positives.shape != embeddings.shape or not positives.is_floating_point():
            raise ValueError(
                f"`positives` must be floating point of the shape of `embeddings`, {tuple(embeddings.shape)}, "
                f"but is {positives.dtype} of shape {tuple(positives.shape)}."
            )

    def _latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        """
        Latents in float64, so that codes can be found in float64.

        In float32 the last bits of a matrix product depend on the batch size, the machine and the number of threads,
        and about one code in 10^6 (in 10^3 where TF32 is on) lies so near a boundary that it would follow them.
        """
        # MPS has no float64.
        device = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device
        widest = max(self.config.input_dim, *self.config.hidden_sizes, self.config.codebook_dim)
        latents = []
        for chunk in embeddings.split(max(1, ENCODER_CHUNK_NUMEL // widest)):
            normalized = self.input_normalization(chunk.float().to(device, torch.float64))
            latents.append(self.encoder(normalized, deterministic=True))
        return torch.cat(latents)

    @torch.no_grad()
    def get_latents(self, embeddings: torch.Tensor) -> torch.Tensor:
        """
        The encoder's output without its codes, of shape `(batch_size, codebook_dim)`: what a k-means initializes
        codebooks from. `embeddings` is not checked.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            latents = torch.cat([self._latents(chunk).float() for chunk in embeddings.split(ENCODE_CHUNK_SIZE)])
        return latents.to(embeddings.device)

    @torch.no_grad()
    def encode(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> RQVAEEncoderOutput:
        """
        The codes of items: the nearest code at each level, the lowest where several are equally near.

        Deterministic, and independent of how the rows are split into batches, of the mode, of autocast and of the
        dtype that the weights were loaded in.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings, of any floating point dtype.
            num_candidates (`int`, *optional*):
                How many of the nearest codes of the last level to give besides, as for moving items of equal codes
                apart: the item's own first, then the others by distance, the lower code where that is equal.

        Returns:
            [`RQVAEEncoderOutput`]: `codes` of shape `(batch_size, num_levels)` and `latents`, and with
            `num_candidates` also `candidates` and `candidate_distances` of shape `(batch_size, num_candidates)`.

        Raises:
            `ValueError`: if `embeddings` is empty, of the wrong width, or has NaN or infinite values (the message
            gives the rows), or if `num_candidates` isn't between 1 and the number of codes of the last level.
        """
        self._check_embeddings(embeddings)
        if num_candidates is not None and not 1 <= num_candidates <= self.config.codebook_sizes[-1]:
            raise ValueError(
                f"`num_candidates` must be between 1 and {self.config.codebook_sizes[-1]}, the number of codes of the "
                f"last level, but is {num_candidates}."
            )
        self._check_finite(embeddings)
        parts = []
        with torch.autocast(embeddings.device.type, enabled=False):
            for chunk in embeddings.split(ENCODE_CHUNK_SIZE):
                latents = self._latents(chunk)
                codes = self.quantizer.assign(latents)
                part = (codes, latents.float())
                if num_candidates is not None:
                    part += self.quantizer.candidates(latents, codes, num_candidates)
                parts.append(part)
        return RQVAEEncoderOutput(*(torch.cat(part).to(embeddings.device) for part in zip(*parts, strict=True)))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """
        The embeddings that codes stand for.

        Args:
            codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
                Codes, or the first levels of them: `codes[:, :l]` decodes a prefix.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, input_dim)`.

        Raises:
            `ValueError`: if `codes` has the wrong shape or type, or a code lies outside its codebook.
        """
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= self.config.num_levels:
            raise ValueError(
                f"`codes` must have shape (batch_size, levels) with 1 to {self.config.num_levels} levels, "
                f"but has shape {tuple(codes.shape)}."
            )
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"`codes` must be integers, but is {codes.dtype}.")
        sizes = torch.tensor(list(self.config.codebook_sizes[: codes.shape[1]]), device=codes.device)
        outside = ((codes < 0) | (codes >= sizes)).nonzero()
        if len(outside) > 0:
            row, level = outside[0].tolist()
            raise ValueError(
                f"`codes` has {len(outside)} values outside their codebook; the first is {codes[row, level].item()} "
                f"in row {row}, level {level}, which has {sizes[level].item()} codes."
            )
        with torch.autocast(codes.device.type, enabled=False):
            quantized = self.quantizer.lookup(codes.long()).sum(dim=1)
            return self.input_normalization.inverse(self.decoder(quantized, deterministic=True))

    def _reconstruction_loss(self, decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.config.reconstruction_loss == "cosine":
            return (1 - F.cosine_similarity(decoded, target, dim=-1)).mean()
        loss_fn = F.mse_loss if self.config.reconstruction_loss == "mse" else F.l1_loss
        error = loss_fn(decoded, target, reduction="none")
        return error.sum(dim=-1).mean() if self.config.quantization_loss == "per_level" else error.mean()

    def _quantization_losses(self, latents, residuals, vectors) -> tuple[torch.Tensor, torch.Tensor]:
        """Commitment and codebook loss, of `residuals` and code `vectors` of shape `(batch_size, levels, dim)`."""
        if self.config.quantization_loss == "per_level":
            commitment = (residuals - vectors.detach()).pow(2).sum(dim=(1, 2)).mean()
            codebook = (residuals.detach() - vectors).pow(2).sum(dim=(1, 2)).mean()
        else:
            sums = vectors.cumsum(dim=1)
            commitment = (latents[:, None] - sums.detach()).pow(2).mean()
            codebook = (latents[:, None].detach() - sums).pow(2).mean()
        return commitment, codebook

    @can_return_tuple
    def forward(
        self, embeddings: torch.Tensor, positives: torch.Tensor | None = None, return_loss: bool = True
    ) -> RQVAEOutput:
        """
        Reconstructs embeddings from their codes and, in training mode, moves the running statistics of the codebooks.
        In training mode and under `torch.distributed` this is a collective: every process must call it, with as many
        rows if there are positives or a Sinkhorn assignment.

        The codes of the levels before are constants to a level, so a code is moved only by its own level's loss
        (`"per_level"`), or by the losses of its own and deeper levels (`"cumulative"`).

        With `positives`, this is FORGE's step on item pairs: the loss is the contrastive loss, of reconstructions and
        embeddings in the space of the embeddings, plus the commitment and codebook losses of both sides. Both sides
        are assigned codes by themselves. Their reconstruction loss is reported, but isn't part of the loss.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            positives (`torch.Tensor` of shape `(batch_size, input_dim)`, *optional*):
                The embedding of an item that goes with each, of length about 1 as `embeddings`. Only for a model with
                `contrastive_loss_weight` above 0.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the losses.
            return_dict (`bool`, *optional*):
                Whether to return an [`RQVAEOutput`] instead of a tuple.

        Returns:
            [`RQVAEOutput`]: losses of both sides, reconstruction, latents and codes of `embeddings`.

        Raises:
            `ValueError`: if `embeddings` is empty or of the wrong width, `positives` of another shape, or the model
                has no contrastive loss.
        """
        self._check_embeddings(embeddings)
        size = len(embeddings)
        if positives is not None:
            self._check_positives(positives, embeddings)
            embeddings = torch.cat([embeddings, positives])
        with torch.autocast(embeddings.device.type, enabled=False):
            normalized = self.input_normalization(embeddings.float())
            if self.training:
                latents = self.encoder(normalized)
                sides = latents.detach().split(size)
                codes = torch.cat([self.quantizer.assign(side, training=True) for side in sides])
            else:
                latents = self._latents(embeddings)
                codes = self.quantizer.assign(latents.detach()).to(embeddings.device)
                latents = latents.float().to(embeddings.device)
            vectors = self.quantizer.lookup(codes)
            before = vectors.detach().cumsum(dim=1) - vectors.detach()
            residuals = latents[:, None] - before
            quantized = vectors.detach().sum(dim=1)
            if self.config.gradient_estimator == "rotation_trick":
                passed = rotate_to(latents, quantized)
            else:
                passed = latents + (quantized - latents).detach()
            decoded = self.decoder(passed)
            reconstruction = self.input_normalization.inverse(decoded)
            output = RQVAEOutput(reconstruction=reconstruction[:size], latents=latents[:size], codes=codes[:size])
            if return_loss:
                output.reconstruction_loss = self._reconstruction_loss(decoded, normalized)
                output.commitment_loss, codebook_loss = self._quantization_losses(latents, residuals, vectors)
                if positives is None:
                    output.loss = output.reconstruction_loss
                else:
                    sides = (*embeddings.float().split(size), *reconstruction.split(size))
                    output.contrastive_terms = self.contrastive_loss(*sides)
                    output.contrastive_loss = output.contrastive_terms.mean()
                    output.loss = self.config.contrastive_loss_weight * output.contrastive_loss
                output.loss = output.loss + self.config.commitment_loss_weight * output.commitment_loss
                if self.config.codebook_update == "gradient":
                    output.codebook_loss = codebook_loss
                    output.loss = output.loss + self.config.codebook_loss_weight * codebook_loss
            if self.training:
                for level, codebook in enumerate(self.quantizer.codebooks):
                    codebook.update(residuals[:, level], codes[:, level])
        return output


__all__ = ["RQVAEEncoderOutput", "RQVAEModel", "RQVAEOutput", "RQVAEPreTrainedModel"]
