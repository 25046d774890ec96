# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""MMQ: a multimodal mixture of quantizations of item embeddings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..rqvae.modeling_item_tokenizer import ItemTokenizerInputNormalization
from ..rqvae.modeling_neural_item_tokenizer import ItemTokenizerMLP, NeuralItemTokenizerModel
from ..rqvae.quantization import RQVAECodebook
from ..vqvae.modeling_vqvae import VQVAEProductQuantizer
from .configuration_mmq import MMQConfig


__all__ = ["MMQModel", "MMQOutput", "MMQSoftEncoderOutput"]

# Latents shorter than this aren't brought to length 1: there would be no telling where they point.
MIN_LATENT_NORM = 1e-6
# An EMA code that was in use so long ago keeps its direction, which float32 would lose.
MIN_CODE_NORM = 1e-6


@dataclass
class MMQOutput(ModelOutput):
    r"""
    Output of [`MMQModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            The weighted sum of the terms below.
        reconstruction_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            Squared error of the reconstruction from all experts, on normalized inputs, unweighted: the mean over the
            dimensions of a modality, and over modalities.
        modality_reconstruction_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when
            `return_loss=True` and there are specific experts):
            The same of the reconstruction of each modality from its specific experts.
        orthogonality_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            `|V V^T - I|^2` of the latents `V` of an item's experts, unweighted.
        commitment_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True`):
            Squared distance of the latents to their (fixed) codes, summed over experts, unweighted.
        codebook_loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `return_loss=True` and
            `codebook_update="gradient"`):
            Squared distance of the codes to their (fixed) latents, summed over experts, unweighted.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, input_dim)`):
            The embeddings, decoded from their codes.
        latents (`torch.FloatTensor` of shape `(batch_size, num_levels * codebook_dim)`):
            The experts' outputs side by side, each of length 1.
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The codes that were used. In evaluation mode these are the codes of [`~MMQModel.encode`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    modality_reconstruction_loss: torch.FloatTensor | None = None
    orthogonality_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    codebook_loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None


@dataclass
class MMQSoftEncoderOutput(ModelOutput):
    r"""
    Output of [`MMQModel.soft_encode`].

    Args:
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The code of each level.
        soft_codes (`tuple[torch.FloatTensor]`):
            For each level, the codes as one-hot rows of shape `(batch_size, codebook_sizes[level])` that have the
            gradient of a softmax.
    """

    codes: torch.LongTensor | None = None
    soft_codes: tuple[torch.FloatTensor, ...] | None = None


class MMQInputNormalization(ItemTokenizerInputNormalization):
    """As its base, for each modality by itself."""

    def __init__(self, config: MMQConfig):
        super().__init__(config)
        self.modality_dims = list(config.modality_dims)

    def _root_mean_square(self, std: torch.Tensor) -> torch.Tensor:
        one_deviation = super()._root_mean_square
        return torch.cat([one_deviation(part) for part in std.split(self.modality_dims)])


class MMQExperts(nn.Module):
    """Normalized embeddings in, the latents of all experts side by side out, each of length 1."""

    def __init__(self, config: MMQConfig):
        super().__init__()
        self.modality_dims, self.level_modalities = list(config.modality_dims), config.level_modalities
        dims = [config.input_dim if i is None else config.modality_dims[i] for i in self.level_modalities]
        self.experts = nn.ModuleList(
            [ItemTokenizerMLP(config, [dim, *config.hidden_sizes, config.codebook_dim]) for dim in dims]
        )
        self.sizes = [config.input_dim, *config.hidden_sizes, config.codebook_dim * len(dims)]

    def forward(self, inputs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        modalities = inputs.split(self.modality_dims, dim=1)
        latents = [
            expert(inputs if i is None else modalities[i], deterministic)
            for expert, i in zip(self.experts, self.level_modalities, strict=True)
        ]
        return torch.cat([F.normalize(part, dim=1, eps=MIN_LATENT_NORM) for part in latents], dim=1)


class MMQCodebook(RQVAECodebook):
    """A codebook whose codes count by their direction: the nearest to a latent has the largest cosine with it."""

    @property
    def vectors(self) -> torch.Tensor:
        """The codes at length 1, of shape `(size, dim)`."""
        # In float64 and rounded, the same on every machine. MPS has none.
        dtype = torch.float32 if self.weight.device.type == "mps" else torch.float64
        # A copy where nothing is to convert: codes may be restarted between forward and backward.
        return F.normalize(self.weight.to(dtype, copy=True), dim=1, eps=torch.finfo(dtype).tiny).float()

    @torch.no_grad()
    def update(self, residuals: torch.Tensor, codes: torch.Tensor) -> None:
        before = self.weight.clone()
        super().update(residuals, codes)
        if self.config.codebook_update == "ema":
            fading = self.weight.norm(dim=1, keepdim=True) < MIN_CODE_NORM
            self.weight.copy_(torch.where(fading, before, self.weight))


class MMQQuantizer(VQVAEProductQuantizer):
    """A codebook for the latent of each expert."""

    codebook_class = MMQCodebook

    def level_dims(self, config: MMQConfig) -> list[int]:
        return [config.codebook_dim] * config.num_levels


class MMQDecoder(nn.Module):
    """
    Code vectors of all experts in, of shape `(batch_size, num_levels, codebook_dim)`; out come the normalized
    embeddings, decoded from the mixture of all experts, and again from the mixture of each modality's specific ones.
    """

    def __init__(self, config: MMQConfig):
        super().__init__()
        self.num_shared, self.num_specific = config.num_shared_experts, config.num_specific_experts
        sizes, dim = list(config.hidden_sizes)[::-1], config.codebook_dim
        self.fused = ItemTokenizerMLP(config, [dim, *sizes, config.input_dim])
        modality_dims = config.modality_dims if self.num_specific > 0 else []
        self.modalities = nn.ModuleList([ItemTokenizerMLP(config, [dim, *sizes, width]) for width in modality_dims])
        gate_sizes = [self.num_specific * dim, dim, self.num_specific]
        gated = modality_dims if self.num_specific > 1 else []
        self.gates = nn.ModuleList([ItemTokenizerMLP(config, gate_sizes) for _ in gated])

    def mixtures(self, vectors: torch.Tensor, deterministic: bool = False) -> list[torch.Tensor]:
        """For each modality, the sum of its experts' vectors, `(batch_size, codebook_dim)`, weighted by its gate."""
        experts = vectors[:, self.num_shared :].split(max(1, self.num_specific), dim=1)
        if not self.gates:
            return [part[:, 0] for part in experts if part.shape[1] > 0]
        gates = [
            gate(part.flatten(1), deterministic).softmax(dim=1) for gate, part in zip(self.gates, experts, strict=True)
        ]
        return [(gate[:, :, None] * part).sum(dim=1) for gate, part in zip(gates, experts, strict=True)]

    def forward(self, vectors: torch.Tensor, deterministic: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
        mixtures = self.mixtures(vectors, deterministic)
        mixed = sum(mixtures, start=vectors[:, : self.num_shared].sum(dim=1))
        parts = [decoder(mixture, deterministic) for decoder, mixture in zip(self.modalities, mixtures, strict=True)]
        return self.fused(mixed, deterministic), parts


class MMQModel(NeuralItemTokenizerModel):
    r"""
    Multimodal mixture of quantizations (MMQ, https://huggingface.co/papers/2508.15281, its first stage): some experts
    (MLPs) see all modalities of an item and some see one; each gives a latent of length 1, and its nearest code by
    cosine is one code of the semantic ID. Items are decoded from the sum of the shared experts' codes and, for each
    modality, a mixture of its specific experts' codes, weighted by a gate. [`RQVAETrainer`] trains it.

    An embedding is the modalities side by side, of `config.modality_dims`: [`ItemEmbeddings.concatenate`] makes them
    of a table for each.

    The gates are an MLP and a softmax of the code vectors of a modality's specific experts, where the paper's see the
    embedding. Gates of the embedding would pass on to the decoder what isn't in the codes, so that the error in
    training would be less than that of the codes, and `decode`, which has only these, would have no gates at all. This
    way both have the same.

    Codes are chosen independently of each other, and `decode` needs all of them.

    The second stage of the paper, in which the loss of a recommender moves the tokenizer, isn't built.
    [`~MMQModel.soft_encode`] is the piece that it would need of this model.

    Args:
        config ([`MMQConfig`]):
            The architecture and the objective.

    Example:

    ```python
    >>> import torch
    >>> from forge_hf.models import MMQConfig, MMQModel

    >>> model = MMQModel(MMQConfig(modality_dims=[12, 4], codebook_sizes=[8] * 6, codebook_dim=4, hidden_sizes=[8]))
    >>> codes = model.encode(torch.randn(5, 16)).codes
    >>> codes.shape
    torch.Size([5, 6])
    >>> model.decode(codes).shape
    torch.Size([5, 16])
    ```
    """

    config: MMQConfig
    base_model_prefix = "mmq"
    has_candidates = True
    has_codebooks = True
    _decodes_prefixes = False

    def __init__(self, config: MMQConfig):
        super().__init__(config)
        self.input_normalization = MMQInputNormalization(config)
        self.encoder = MMQExperts(config)
        self.quantizer = MMQQuantizer(config)
        self.decoder = MMQDecoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RQVAECodebook):
            module.init_weights()

    @property
    def is_initialized(self) -> bool:
        """Whether every codebook has been initialized from data."""
        return all(bool(codebook.initialized) for codebook in self.quantizer.codebooks)

    def get_codebook(self, level: int) -> torch.Tensor:
        """The codes of a level at length 1, of shape `(codebook_sizes[level], codebook_dim)`, detached."""
        return self.quantizer.codebooks[level].vectors.detach()

    @torch.no_grad()
    def initialize_codebooks(
        self, latents: torch.Tensor, kmeans: Callable[[torch.Tensor, int, int], torch.Tensor]
    ) -> None:
        """
        Sets every codebook from data: each is clustered from the latents of its expert.

        Args:
            latents (`torch.Tensor` of shape `(num_items, num_levels * codebook_dim)`):
                The experts' outputs of a sample of items.
            kmeans (`Callable`):
                `kmeans(points, num_clusters, level)` gives the centroids of points.
        """
        for level, codebook in enumerate(self.quantizer.codebooks):
            centroids = kmeans(self.quantizer.level_input(latents, level), codebook.size, level)
            codebook.set(F.normalize(centroids, dim=1))

    def _encode_chunk(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> tuple[torch.Tensor, ...]:
        latents = self._latents(embeddings)
        codes = self.quantizer.assign(latents)
        if num_candidates is None:
            return codes, latents
        return codes, latents, *self.quantizer.candidates(latents, codes, num_candidates)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.input_normalization.inverse(self.decoder(self.quantizer.lookup(codes), deterministic=True)[0])

    def soft_encode(self, embeddings: torch.Tensor, temperature: float = 0.1) -> MMQSoftEncoderOutput:
        """
        The codes of [`~MMQModel.encode`] with a gradient, the paper's soft index: a one-hot row whose gradient is that
        of the softmax of the latent's cosines with all codes of a level. A product with a table of token embeddings,
        `soft_codes[level] @ table`, looks codes up and lets the loss of what follows move the experts (and the codes,
        with `codebook_update="gradient"`).

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            temperature (`float`, *optional*, defaults to 0.1):
                What the cosines are divided by. The lower, the fewer codes have a gradient.

        Returns:
            [`MMQSoftEncoderOutput`]

        Raises:
            `ValueError`: if `temperature` isn't positive, or as [`~MMQModel.encode`].
        """
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, but is {temperature}.")
        codes = self.encode(embeddings).codes
        with torch.autocast(embeddings.device.type, enabled=False):
            latents = self.encoder(self.input_normalization(embeddings.float()), deterministic=True)
            soft_codes = []
            for level, codebook in enumerate(self.quantizer.codebooks):
                cosines = self.quantizer.level_input(latents, level) @ codebook.vectors.T
                weights = (cosines / temperature).softmax(dim=1)
                one_hot = F.one_hot(codes[:, level], codebook.size).to(weights)
                soft_codes.append(one_hot + (weights - weights.detach()))
        return MMQSoftEncoderOutput(codes=codes, soft_codes=tuple(soft_codes))

    def _reconstruction_error(self, parts: list[torch.Tensor], normalized: torch.Tensor) -> torch.Tensor:
        """Squared error as the mean over each modality, and over modalities: the wider count for no more."""
        targets = normalized.split(list(self.config.modality_dims), dim=1)
        return torch.stack([F.mse_loss(part, target) for part, target in zip(parts, targets, strict=True)]).mean()

    @can_return_tuple
    def forward(self, embeddings: torch.Tensor, return_loss: bool = True) -> MMQOutput:
        """
        Reconstructs embeddings from their codes and, in training mode, moves the running statistics of the codebooks.
        In training mode and under `torch.distributed` this is a collective: every process must call it.

        The reconstructions' gradient passes from the codes straight to the latents.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings.
            return_loss (`bool`, *optional*, defaults to `True`):
                Whether to compute the losses.
            return_dict (`bool`, *optional*):
                Whether to return an [`MMQOutput`] instead of a tuple.

        Returns:
            [`MMQOutput`]

        Raises:
            `ValueError`: if `embeddings` is empty or of the wrong width.
        """
        self._check_embeddings(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            normalized = self.input_normalization(embeddings.float())
            if self.training:
                latents = self.encoder(normalized)
                codes = self.quantizer.assign(latents.detach())
            else:  # as `encode` does
                latents = self._latents(self._to_float64(embeddings))
                codes = self.quantizer.assign(latents.detach()).to(embeddings.device)
                latents = latents.float().to(embeddings.device)
            vectors = self.quantizer.lookup(codes)
            experts = self.quantizer.inputs(latents, vectors)
            decoded, parts = self.decoder(experts + (vectors - experts).detach())
            output = MMQOutput(reconstruction=self.input_normalization.inverse(decoded), latents=latents, codes=codes)
            if return_loss:
                self._add_losses(output, normalized, decoded, parts, experts, vectors)
            if self.training:
                for level, codebook in enumerate(self.quantizer.codebooks):
                    codebook.update(experts[:, level], codes[:, level])
        return output

    def _add_losses(self, output: MMQOutput, normalized, decoded, parts, experts, vectors) -> None:
        config = self.config
        whole = decoded.split(list(config.modality_dims), dim=1)
        output.reconstruction_loss = self._reconstruction_error(whole, normalized)
        output.loss = config.reconstruction_loss_weight * output.reconstruction_loss
        if parts:
            output.modality_reconstruction_loss = self._reconstruction_error(parts, normalized)
            weight = config.modality_reconstruction_loss_weight
            output.loss = output.loss + weight * output.modality_reconstruction_loss
        cosines = experts @ experts.transpose(1, 2) - torch.eye(experts.shape[1], device=experts.device)
        output.orthogonality_loss = cosines.pow(2).sum(dim=(1, 2)).mean()
        output.loss = output.loss + config.orthogonality_loss_weight * output.orthogonality_loss
        output.commitment_loss = (experts - vectors.detach()).pow(2).sum(dim=(1, 2)).mean()
        output.loss = output.loss + config.commitment_loss_weight * output.commitment_loss
        if config.codebook_update == "gradient":
            output.codebook_loss = (experts.detach() - vectors).pow(2).sum(dim=(1, 2)).mean()
            output.loss = output.loss + config.codebook_loss_weight * output.codebook_loss
