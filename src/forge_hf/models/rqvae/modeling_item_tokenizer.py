# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
What all item tokenizers share: checks, encoding in chunks of float64, decoding, saving and pushing.

It stands in this folder, and imports only torch and transformers, because the folder is the Hub's remote code.
"""

import os
import tempfile
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple


# Encoding goes through the rows in chunks of at most so many, whose widest intermediate has at most so many numbers
# (128 MB).
ENCODE_CHUNK_SIZE = 2**15
ENCODE_CHUNK_NUMEL = 2**24


@dataclass
class ItemTokenizerOutput(ModelOutput):
    r"""
    Output of an item tokenizer's `encode`.

    Args:
        codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
            The code of each level.
        latents (`torch.FloatTensor` of shape `(batch_size, latent_dim)`, *optional*):
            What was quantized, where that isn't the embeddings themselves.
        candidates (`torch.LongTensor` of shape `(batch_size, num_candidates)`, *optional*, returned when
            `num_candidates` is given):
            The nearest codes of the last level, given the item's own codes of the levels before. The first is the
            item's own.
        candidate_distances (`torch.FloatTensor` of shape `(batch_size, num_candidates)`, *optional*, returned when
            `num_candidates` is given):
            Their squared distances to what the last level quantizes.
    """

    codes: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    candidates: torch.LongTensor | None = None
    candidate_distances: torch.FloatTensor | None = None


class ItemTokenizerInputNormalization(nn.Module):
    """
    Moves embeddings to where quantizing works best, and back, by statistics of the items.

    `"center"` takes the mean item away and divides by one number (the root mean square of what is left), which keeps
    the angles between centered items; `"standardize"` divides each dimension by its own deviation; `"none"` leaves
    embeddings alone.
    """

    def __init__(self, config):
        super().__init__()
        self.kind = config.input_normalization
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("std", torch.ones(config.input_dim))

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Takes the mean and the standard deviation of each dimension. A constant dimension is left unscaled."""
        if mean.shape != self.mean.shape or std.shape != mean.shape:
            raise ValueError(
                f"`mean` and `std` must have shape {tuple(self.mean.shape)}, "
                f"but have {tuple(mean.shape)} and {tuple(std.shape)}."
            )
        if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
            raise ValueError("`mean` and `std` must be finite, and `std` not negative.")
        if self.kind == "none":
            return
        if self.kind == "center":
            std = self._root_mean_square(std)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def _root_mean_square(self, std: torch.Tensor) -> torch.Tensor:
        """One deviation in the place of those of all dimensions."""
        return std.cpu().double().pow(2).mean().sqrt().to(std).expand_as(std)  # squares may be beyond float32

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings - self.mean.to(embeddings)) / self.std.to(embeddings)

    def inverse(self, normalized: torch.Tensor) -> torch.Tensor:
        return normalized * self.std.to(normalized) + self.mean.to(normalized)


class ItemTokenizerPreTrainedModel(PreTrainedModel):
    """
    Base of the item tokenizers: embeddings in, codes out, and back.

    A subclass has a config with `input_dim` and `codebook_sizes`, and implements `_encode_chunk` and, where codes can
    be decoded, `_decode`. It has no weight that isn't in its state, and calls `post_init()` when all are there.
    """

    main_input_name = "embeddings"
    _decodes_prefixes = True
    _encoder_output_class = ItemTokenizerOutput
    # Whether `_encode_chunk` takes `num_candidates`, which goes for models whose last level has a codebook.
    has_candidates = False
    # Whether `balanced_codes(items)` gives the codes of a table, which then depend on the other items.
    has_balanced_codes = False

    def post_init(self):
        # Weights stay fp32 whatever the dtype of the load: rounded ones would move items to other codes.
        tensors = [*self.named_parameters(), *self.named_buffers()]
        names = {name for name, tensor in tensors if tensor.is_floating_point()}
        self._keep_in_fp32_modules_strict = {*(self._keep_in_fp32_modules_strict or ()), *names}
        super().post_init()

    @property
    def dtype(self) -> torch.dtype:
        """Always float32. (transformers asks the first parameter, and there may be buffers only.)"""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.state_dict().values())).device

    @property
    def is_initialized(self) -> bool:
        """Whether the weights come from data."""
        raise NotImplementedError(f"{type(self).__name__} must say whether it `is_initialized`.")

    def _check_ready(self) -> None:
        """Raises where the model can't encode or decode yet."""

    def _encode_chunk(self, embeddings: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Codes and, where they aren't the embeddings, latents of float64 rows; and what else `_encode` asks for."""
        raise NotImplementedError(f"{type(self).__name__} can't encode.")

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Embeddings of int64 codes that have been checked."""
        raise NotImplementedError(f"{type(self).__name__} can't decode.")

    def _encode_width(self) -> int:
        """How many numbers a row takes where encoding is widest."""
        return self.config.input_dim

    def _check_embeddings(self, embeddings: torch.Tensor) -> None:
        if not isinstance(embeddings, torch.Tensor):
            raise TypeError(
                f"`embeddings` must be a tensor, but is {type(embeddings).__name__}. Use `torch.as_tensor`, or "
                "`to_tensor()` of ItemEmbeddings."
            )
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

    def _check_codes(self, codes: torch.Tensor) -> None:
        if not isinstance(codes, torch.Tensor):
            raise TypeError(f"`codes` must be a tensor, but is {type(codes).__name__}. Use `torch.as_tensor`.")
        num_levels = len(self.config.codebook_sizes)
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= num_levels:
            raise ValueError(
                f"`codes` must have shape (batch_size, levels) with 1 to {num_levels} levels, "
                f"but has shape {tuple(codes.shape)}."
            )
        if codes.shape[1] < num_levels and not self._decodes_prefixes:
            raise ValueError(
                f"`codes` must have all {num_levels} levels, since {type(self).__name__} can't decode a prefix, "
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

    def _chunks(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return embeddings.split(max(1, min(ENCODE_CHUNK_SIZE, ENCODE_CHUNK_NUMEL // self._encode_width())))

    @staticmethod
    def _to_float64(embeddings: torch.Tensor) -> torch.Tensor:
        """Rows as they are encoded: in float32 about one code in 10^6 would follow the rounding, and so the batch."""
        device = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device  # MPS has no float64
        return embeddings.float().to(device, torch.float64)

    @torch.no_grad()
    def _encode(self, embeddings: torch.Tensor, **options) -> list[torch.Tensor | None]:
        """What `_encode_chunk` gives (with `options`), of rows of any number that are checked first."""
        self._check_ready()
        self._check_embeddings(embeddings)
        self._check_finite(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            parts = [self._encode_chunk(self._to_float64(chunk), **options) for chunk in self._chunks(embeddings)]
            # Codes are int64, and all else is given in float32. What is missing is missing of all chunks.
            parts = [
                [None if x is None else (x.float() if x.is_floating_point() else x) for x in part] for part in parts
            ]
        columns = zip(*parts, strict=True)
        return [None if column[0] is None else torch.cat(column).to(embeddings.device) for column in columns]

    def encode(self, embeddings: torch.Tensor, num_candidates: int | None = None) -> ItemTokenizerOutput:
        """
        The codes of items. Of a codebook, the nearest code: the lowest where several are equally near.

        Deterministic, and independent of how the rows are split into batches, of the mode, of autocast and of the
        dtype that the weights were loaded in.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, input_dim)`):
                Item embeddings, of any floating point dtype.
            num_candidates (`int`, *optional*):
                How many of the nearest codes of the last level to give besides, as for moving items of equal codes
                apart: the item's own first, then the others by distance, the lower code where that is equal. For
                models that `has_candidates`.

        Returns:
            [`ItemTokenizerOutput`]: `codes` of shape `(batch_size, num_levels)`, `latents`, where they aren't the
            embeddings, and with `num_candidates` also `candidates` and `candidate_distances` of shape
            `(batch_size, num_candidates)`.

        Raises:
            `ValueError`: if `embeddings` is empty, of the wrong width, or has NaN or infinite values (the message
                gives the rows), or the model has not been fitted; if `num_candidates` isn't between 1 and the number
                of codes of the last level, or the model's last level has no codebook.
        """
        if num_candidates is None:
            return self._encoder_output_class(*self._encode(embeddings))
        if not self.has_candidates:
            raise ValueError(
                f"`num_candidates` needs an item tokenizer whose last level has a codebook, but is {num_candidates} "
                f"of {type(self).__name__}, which has none."
            )
        if not 1 <= num_candidates <= self.config.codebook_sizes[-1]:
            raise ValueError(
                f"`num_candidates` must be between 1 and {self.config.codebook_sizes[-1]}, the number of codes of the "
                f"last level, but is {num_candidates}."
            )
        return self._encoder_output_class(*self._encode(embeddings, num_candidates=num_candidates))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """
        The embeddings that codes stand for.

        Args:
            codes (`torch.LongTensor` of shape `(batch_size, num_levels)`):
                Codes, or the first levels of them: `codes[:, :l]` decodes a prefix.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, input_dim)`, on the device of `codes`.

        Raises:
            `ValueError`: if `codes` has the wrong shape or type, or a code lies outside its codebook, or the model has
                not been fitted.
        """
        self._check_ready()
        self._check_codes(codes)
        with torch.autocast(self.device.type, enabled=False):
            return self._decode(codes.to(self.device).long()).to(codes.device)

    @can_return_tuple
    def forward(self, embeddings: torch.Tensor) -> ItemTokenizerOutput:
        """The same as `encode`, for models that have no objective."""
        return self.encode(embeddings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As that of all models.

        Raises:
            `ValueError`: if the weights are truncated.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"The weights of `{pretrained_model_name_or_path}` are truncated or aren't safetensors: {error}. Save "
                "the model again, or download it anew."
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """
        Saves the model, with its code where it has some: all files or, if it fails or is killed, none.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to write to, made if there is none.
            kwargs:
                As in [`~transformers.PreTrainedModel.save_pretrained`].
        """
        try:
            from forge_hf.hub import write_folder
        except ImportError:  # where this file is the Hub's remote code
            return super().save_pretrained(save_directory, **kwargs)
        if not kwargs.get("is_main_process", True):
            return super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", os.path.basename(os.path.normpath(save_directory)))
        with write_folder(save_directory) as folder:
            super().save_pretrained(folder, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs):
        """
        Uploads the model to the Hub in one commit, with its code where it has some, and a card.

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


__all__ = [
    "ItemTokenizerInputNormalization",
    "ItemTokenizerOutput",
    "ItemTokenizerPreTrainedModel",
]
