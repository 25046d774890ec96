# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RQ-VAE model. Imports only torch, transformers and its siblings: the same files are the Hub's remote code."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .code_assignment import nearest_codes
from .configuration_rqvae import RQVAEConfig
from .contrastive_loss import INITIAL_LOGIT_SCALE, RQVAEContrastiveLoss
from .modeling_item_tokenizer import ItemTokenizerInputNormalization, ItemTokenizerOutput
from .modeling_neural_item_tokenizer import ItemTokenizerMLP, NeuralItemTokenizerModel, reconstruction_loss
from .quantization import RQVAECodebook, RQVAEResidualQuantizer, rotate_to


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
        quantized (`torch.FloatTensor` of shape `(batch_size, codebook_dim)`):
            The latents as their codes give them, which is what the decoder gets. Its gradient goes to the latents.
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
    quantized: torch.FloatTensor | None = None


@dataclass
class RQVAEEncoderOutput(ItemTokenizerOutput):
    r"""
    Output of [`RQVAEModel.encode`], whose `latents` of shape `(batch_size, codebook_dim)` are the encoder's output
    before quantization.
    """


class RQVAEPreTrainedModel(NeuralItemTokenizerModel):
    """Weight initialization, saving and loading of the RQ-VAE."""

    config: RQVAEConfig
    base_model_prefix = "rqvae"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RQVAECodebook):
            module.init_weights()
        elif isinstance(module, RQVAEContrastiveLoss):
            for scale in module.logit_scales:
                init.constant_(scale, INITIAL_LOGIT_SCALE)


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

    has_codebooks = True
    output_class = RQVAEOutput
    _encoder_output_class = RQVAEEncoderOutput
    has_candidates = True

    def __init__(self, config: RQVAEConfig):
        super().__init__(config)
        sizes = [config.input_dim, *config.hidden_sizes, config.codebook_dim]
        self.input_normalization = ItemTokenizerInputNormalization(config)
        self.encoder = ItemTokenizerMLP(config, sizes, residual=config.residual_encoder)
        self.quantizer = self._make_quantizer(config)
        self.decoder = ItemTokenizerMLP(config, sizes[::-1])
        if config.contrastive_loss_weight > 0:
            self.contrastive_loss = RQVAEContrastiveLoss()
        self.post_init()

    @staticmethod
    def _make_quantizer(config: RQVAEConfig) -> RQVAEResidualQuantizer:
        return RQVAEResidualQuantizer(config)

    @property
    def takes_pairs(self) -> bool:
        """Whether it is trained on pairs of items, besides items."""
        return self.config.contrastive_loss_weight > 0

    @property
    def needs_full_batches(self) -> bool:
        """Whether a level is assigned by Sinkhorn, which spreads each batch over all codes."""
        return "sinkhorn" in self.config.level_assignments

    @property
    def is_initialized(self) -> bool:
        """Whether every codebook has been initialized from data."""
        return all(bool(codebook.initialized) for codebook in self.quantizer.codebooks)

    def get_codebook(self, level: int) -> torch.Tensor:
        """The codes of a level, of shape `(codebook_sizes[level], codebook_dim)`, detached."""
        return self.quantizer.codebooks[self._check_level(level)].vectors.detach()

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
        codebook = self.quantizer.codebooks[self._check_level(level)]
        if centroids.shape != codebook.weight.shape or not centroids.isfinite().all():
            raise ValueError(
                f"`centroids` of level {level} must be finite and of shape {tuple(codebook.weight.shape)}, "
                f"but has shape {tuple(centroids.shape)}."
            )
        codebook.set(centroids)

    @torch.no_grad()
    def initialize_codebooks(
        self, latents: torch.Tensor, kmeans: Callable[[torch.Tensor, int, int], torch.Tensor]
    ) -> None:
        """
        Sets every codebook from data: each is clustered from what the levels before left for it.

        Args:
            latents (`torch.Tensor` of shape `(num_items, codebook_dim)`):
                The encoder's output of a sample of items.
            kmeans (`Callable`):
                `kmeans(points, num_clusters, level)` gives the centroids of points.
        """
        left = latents
        for level, codebook in enumerate(self.quantizer.codebooks):
            points = self.quantizer.level_input(left, level)
            centroids = kmeans(points, codebook.size, level)
            self.set_codebook(level, centroids)
            left = self.quantizer.left_over(left, centroids[nearest_codes(points, centroids)])

    def _check_level(self, level: int) -> int:
        if not 0 <= level < self.config.num_levels:
            raise ValueError(f"`level` must be from 0 to {self.config.num_levels - 1}, but is {level}.")
        return level

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

    def _encode_chunk(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> tuple[torch.Tensor, ...]:
        latents = self._latents(embeddings)
        codes = self.quantizer.assign(latents)
        if num_candidates is None:
            return codes, latents
        return codes, latents, *self.quantizer.candidates(latents, codes, num_candidates)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        quantized = self.quantizer.combine(self.quantizer.lookup(codes))
        return self.input_normalization.inverse(self.decoder(quantized, deterministic=True))

    @property
    def _sums_losses(self) -> bool:
        """Whether losses are summed over levels and dimensions, or averaged."""
        return self.config.quantization_loss == "per_level"

    def _quantization_losses(self, latents, residuals, vectors) -> tuple[torch.Tensor, torch.Tensor]:
        """Commitment and codebook loss, of `residuals` and code `vectors` of shape `(batch_size, levels, dim)`."""
        if self._sums_losses:
            commitment = (residuals - vectors.detach()).pow(2).sum(dim=(1, 2)).mean()
            codebook = (residuals.detach() - vectors).pow(2).sum(dim=(1, 2)).mean()
        else:
            sums = vectors.cumsum(dim=1)
            commitment = (latents[:, None] - sums.detach()).pow(2).mean()
            codebook = (latents[:, None].detach() - sums).pow(2).mean()
        return commitment, codebook

    def _further_losses(self, quantized: torch.Tensor, codes: torch.Tensor, **inputs) -> dict[str, torch.Tensor]:
        """
        Terms that a subclass adds to the loss, by the names of fields of its `output_class`, each of which is weighted
        by the field `{name}_weight` of the config.

        `quantized`, of shape `(batch_size, codebook_dim)`, passes its gradient on to the latents. `inputs` are the
        subclass's own arguments of `_forward`. In training mode every process calls this at every step.
        """
        return {}

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
        return self._forward(embeddings, positives, return_loss)

    def _forward(
        self, embeddings: torch.Tensor, positives: torch.Tensor | None, return_loss: bool, **inputs
    ) -> RQVAEOutput:
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
                latents = self._latents(self._to_float64(embeddings))
                codes = self.quantizer.assign(latents.detach()).to(embeddings.device)
                latents = latents.float().to(embeddings.device)
            vectors = self.quantizer.lookup(codes)
            residuals = self.quantizer.inputs(latents, vectors.detach())
            quantized = self.quantizer.combine(vectors.detach())
            if self.config.gradient_estimator == "rotation_trick":
                passed = rotate_to(latents, quantized)
            else:
                passed = latents + (quantized - latents).detach()
            decoded = self.decoder(passed)
            reconstruction = self.input_normalization.inverse(decoded)
            output = self.output_class(
                reconstruction=reconstruction[:size],
                latents=latents[:size],
                codes=codes[:size],
                quantized=passed[:size],
            )
            if return_loss:
                kind, reduction = self.config.reconstruction_loss, "sum" if self._sums_losses else "mean"
                output.reconstruction_loss = reconstruction_loss(decoded, normalized, kind, reduction)
                output.commitment_loss, codebook_loss = self._quantization_losses(latents, residuals, vectors)
                if positives is None:
                    output.loss = output.reconstruction_loss
                else:
                    sides = (*embeddings.float().split(size), *reconstruction.split(size))
                    output.contrastive_terms = self.contrastive_loss(*sides)
                    output.contrastive_loss = output.contrastive_terms.mean()
                    output.loss = self.config.contrastive_loss_weight * output.contrastive_loss
                output.loss = output.loss + self.config.commitment_loss_weight * output.commitment_loss
                if self.config.codebook_update != "ema":
                    output.codebook_loss = codebook_loss
                    output.loss = output.loss + self.config.codebook_loss_weight * codebook_loss
                for name, value in self._further_losses(passed, codes, **inputs).items():
                    output[name] = value
                    output.loss = output.loss + getattr(self.config, f"{name}_weight") * value
            if self.training:
                for level, codebook in enumerate(self.quantizer.codebooks):
                    codebook.update(residuals[:, level], codes[:, level])
        return output


__all__ = ["RQVAEEncoderOutput", "RQVAEModel", "RQVAEOutput", "RQVAEPreTrainedModel"]
