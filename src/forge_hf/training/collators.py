# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Windows of catalog rows to padded batches of tokens."""

import torch
from torch.nn.utils.rnn import pad_sequence

from ..tokenization import HistoryEncoder


__all__ = ["CausalCollator", "Seq2SeqCollator"]

IGNORE_INDEX = -100


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


def _pad(encoder: HistoryEncoder, rows: list[torch.Tensor], windows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    users = [window["user_id"] for window in windows]
    sequences = encoder.encode_rows(rows, None if users[0] is None else users)
    # A text tokenizer may have no padding token. Padding is masked or ignored, so any token serves.
    padding = 0 if encoder.tokenizer.pad_token_id is None else encoder.tokenizer.pad_token_id
    input_ids = pad_sequence(sequences, batch_first=True, padding_value=padding)
    return input_ids, torch.tensor([len(sequence) for sequence in sequences])
