# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Windows of catalog rows, and examples of text rows, to padded batches of tokens."""

import torch
from torch.nn.utils.rnn import pad_sequence

from ..tokenization import HistoryEncoder
from ..tokenization.prompts import IGNORE_INDEX


__all__ = ["CausalCollator", "PromptCollator", "Seq2SeqCollator"]


class CausalCollator:
    """
    Batches for a decoder-only model: a start token, then the codes of a window's items, each code a label.

    Batches are padded on the right and carry no attention mask: under causal attention no real position sees padding,
    and without a mask PyTorch takes its faster kernels.

    Args:
        encoder ([`HistoryEncoder`]):
            Tokens of items and users.

    Returns:
        `dict` of `input_ids` and `labels`, both of shape `(batch_size, 1 + max_items * num_levels)`.
    """

    def __init__(self, encoder: HistoryEncoder):
        self.encoder = encoder

    def __call__(self, windows: list[dict]) -> dict[str, torch.Tensor]:
        input_ids, lengths = _pad(self.encoder, [window["rows"] for window in windows], windows)
        position = torch.arange(input_ids.shape[1])
        # The start token is given, never predicted.
        is_label = (position > 0) & (position < lengths[:, None])
        return {"input_ids": input_ids, "labels": input_ids.masked_fill(~is_label, IGNORE_INDEX)}


class Seq2SeqCollator:
    """
    Batches for an encoder-decoder: the window without its last item is read, the codes of the last are the labels.

    Args:
        encoder ([`HistoryEncoder`]):
            Tokens of items and users.
        decoder_start_token_id (`int`):
            First token of the decoder.

    Returns:
        `dict` of `input_ids` and `attention_mask` of shape `(batch_size, sequence_length)`, and `decoder_input_ids`
        and `labels` of shape `(batch_size, num_levels)`.
    """

    def __init__(self, encoder: HistoryEncoder, decoder_start_token_id: int):
        self.encoder = encoder
        self.decoder_start_token_id = decoder_start_token_id

    def __call__(self, windows: list[dict]) -> dict[str, torch.Tensor]:
        input_ids, lengths = _pad(self.encoder, [window["rows"][:-1] for window in windows], windows)
        labels = self.encoder.item_tokens[torch.stack([window["rows"][-1] for window in windows])]
        start = torch.full_like(labels[:, :1], self.decoder_start_token_id)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            # Given, not left to the model: the loss is ours, and no label reaches the model.
            "decoder_input_ids": torch.cat([start, labels[:, :-1]], dim=1),
            "labels": labels,
        }


class PromptCollator:
    """
    Batches of the examples that [`PromptEncoder`] makes of text rows.

    For an encoder-decoder, sources and labels are padded on the right. For a decoder-only model examples are padded on
    the left, so that all labels stand at the end: the model then needs to make logits of the last few places alone
    (`logits_to_keep`), not of a whole prompt over a whole vocabulary.

    Args:
        pad_token_id (`int`, *optional*):
            Token to pad with. Padding is masked or ignored, so any serves where a tokenizer has none.
        decoder_start_token_id (`int`, *optional*):
            First token of the decoder, for an encoder-decoder.
        keeps_logits (`bool`, *optional*, defaults to `True`):
            Whether a decoder-only model's `forward` takes `logits_to_keep`.

    Returns:
        `dict` of `input_ids`, `attention_mask` and `labels`, of shape `(batch_size, length)`; besides them
        `decoder_input_ids` as the labels for an encoder-decoder, or else `logits_to_keep`, a number, where labels have
        no more places than that and the one before the first.
    """

    def __init__(
        self,
        pad_token_id: int | None = None,
        decoder_start_token_id: int | None = None,
        keeps_logits: bool = True,
    ):
        self.pad_token_id = 0 if pad_token_id is None else pad_token_id
        self.decoder_start_token_id = decoder_start_token_id
        self.keeps_logits = keeps_logits

    def __call__(self, examples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor | int]:
        is_encoder_decoder = self.decoder_start_token_id is not None
        side = "right" if is_encoder_decoder else "left"

        def pad(sequences, value):
            return pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=side)

        input_ids = pad([input_ids for input_ids, _ in examples], self.pad_token_id)
        labels = pad([labels for _, labels in examples], IGNORE_INDEX)
        mask = pad([torch.ones_like(input_ids) for input_ids, _ in examples], 0)
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        if is_encoder_decoder:
            start = torch.full_like(labels[:, :1], self.decoder_start_token_id)
            before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, self.pad_token_id)
            # Given, not left to the model: the loss is ours, and no label reaches the model.
            batch["decoder_input_ids"] = torch.cat([start, before], dim=1)
        elif self.keeps_logits:
            first = int((labels != IGNORE_INDEX).any(dim=0).int().argmax())
            batch["logits_to_keep"] = labels.shape[1] - first + 1
        return batch


def _pad(encoder: HistoryEncoder, rows: list[torch.Tensor], windows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    users = [window["user_id"] for window in windows]
    sequences = encoder.encode_rows(rows, None if users[0] is None else users)
    # A text tokenizer may have no padding token. Padding is masked or ignored, so any token serves.
    padding = 0 if encoder.tokenizer.pad_token_id is None else encoder.tokenizer.pad_token_id
    input_ids = pad_sequence(sequences, batch_first=True, padding_value=padding)
    return input_ids, torch.tensor([len(sequence) for sequence in sequences])
