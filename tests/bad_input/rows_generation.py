# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
# fmt: off
# ruff: noqa: E501
"""forge_hf.tokenization and forge_hf.generation: histories, rows, beams and saved retrievers that aren't any."""

import torch

from forge_hf import (
    GenerativeRetrievalPipeline,
    HistoryEncoder,
    PrefixTable,
    PromptEncoder,
    SemanticIdLayout,
    SemanticIdLogitsProcessor,
    SemanticIdTokenizer,
    constrained_beam_search,
    extend_tokenizer,
    load_retriever,
    resize_and_init,
    retrieve,
    semantic_id_beam_search,
    semantic_id_token_ids,
)
from forge_hf.errors import (
    CorruptCatalogError,
    CorruptFileError,
    FingerprintMismatchError,
    InvalidCodesError,
    InvalidSequencesError,
    UnknownItemError,
    UnsatisfiableRequestError,
)
from forge_hf.generation import rank_catalog, retrieve_unconstrained, score_catalog

from .world import NAN, TWO_GIB_HEADER, table, truncated, with_entry


LAYOUT = SemanticIdLayout([4, 4])
CODES = torch.tensor([[0, 1], [2, 3]])


def ask(w, histories=(("a", "b"),), **options):
    return retrieve(w.model, w.tokenizer, w.catalog, histories, **{"top_k": 2} | options)


def encode(w, histories, **options):
    return HistoryEncoder(w.catalog, w.tokenizer, is_encoder_decoder=False)(histories, **options)


def prompts(w, rows):
    return PromptEncoder(w.tokenizer, w.catalog.layout, is_encoder_decoder=False).encode_prompts(rows)


def search(w, input_ids=None, num_beams=2, **options):
    return constrained_beam_search(w.model, w.input_ids if input_ids is None else input_ids, None, w.table, num_beams, **options)


def generate(w, **options):
    options = {"custom_generate": semantic_id_beam_search, "prefix_table": w.table, "max_new_tokens": 2} | options
    return w.model.generate(w.input_ids, **options)


def load(w, **damaged):
    return load_retriever(w.copy("retriever", **damaged))


def with_nan(model):
    for parameter in model.parameters():
        parameter.data.fill_(NAN)
    return model


def nan_model(w):
    from copy import deepcopy

    return with_nan(deepcopy(w.model))


ROWS = table(
    # entry point           | bad input              | call                                      | error               | the message names
    ("SemanticIdTokenizer", "neither layout nor sizes", lambda w: SemanticIdTokenizer(), ValueError, "`layout`"),
    ("SemanticIdTokenizer", "a list for a layout", lambda w: SemanticIdTokenizer(layout=[4, 4]), TypeError, "`layout`"),
    ("SemanticIdTokenizer", "negative buckets", lambda w: SemanticIdTokenizer(layout=LAYOUT, num_user_buckets=-1), ValueError, "`num_user_buckets`"),
    ("SemanticIdTokenizer", "buckets that are text", lambda w: SemanticIdTokenizer(layout=LAYOUT, num_user_buckets="9"), ValueError, "`num_user_buckets`"),
    ("SemanticIdTokenizer", "too many buckets", lambda w: SemanticIdTokenizer(layout=LAYOUT, num_user_buckets=2**30), ValueError, "`num_user_buckets`"),
    ("SemanticIdTokenizer", "too many codes", lambda w: SemanticIdTokenizer(codebook_sizes=[2**21]), ValueError, "`codebook_sizes`"),
    ("SemanticIdTokenizer.user_token_id", "no buckets", lambda w: w.tokenizer.user_token_id(7), ValueError, "`num_user_buckets`"),
    ("semantic_id_token_ids", "another layout", lambda w: semantic_id_token_ids(w.tokenizer, SemanticIdLayout([9, 9])), ValueError, "`tokenizer`"),
    ("semantic_id_token_ids", "a name", lambda w: semantic_id_token_ids("Qwen/Qwen2.5-0.5B", LAYOUT), TypeError, "`tokenizer`"),
    ("semantic_id_token_ids", "a list for a layout", lambda w: semantic_id_token_ids(w.tokenizer, [4, 4]), TypeError, "`layout`"),
    ("extend_tokenizer", "a name", lambda w: extend_tokenizer("Qwen/Qwen2.5-0.5B", LAYOUT), TypeError, "`tokenizer`"),
    ("extend_tokenizer", "a list for a layout", lambda w: extend_tokenizer(w.tokenizer, [4, 4]), TypeError, "`layout`"),
    ("resize_and_init", "a name", lambda w: resize_and_init("Qwen/Qwen2.5-0.5B", w.tokenizer, LAYOUT), TypeError, "`model`"),
    ("resize_and_init", "codebooks of other sizes", lambda w: resize_and_init(w.model, SemanticIdTokenizer(layout=SemanticIdLayout([8, 8])), SemanticIdLayout([8, 8]), rqvae=w.rqvae), ValueError, "`rqvae`"),

    ("HistoryEncoder", "a folder for a catalog", lambda w: HistoryEncoder("runs/catalog", w.tokenizer, False), TypeError, "`catalog`"),
    ("HistoryEncoder", "no items", lambda w: HistoryEncoder(w.catalog, w.tokenizer, False, max_items=0), ValueError, "`max_items`"),
    ("HistoryEncoder", "half an item", lambda w: HistoryEncoder(w.catalog, w.tokenizer, False, max_items=2.5), ValueError, "`max_items`"),
    ("HistoryEncoder", "zero-length history", lambda w: encode(w, [["a"], []]), InvalidSequencesError, "rows 1"),
    ("HistoryEncoder", "one history", lambda w: encode(w, ["a", "b"]), InvalidSequencesError, "`histories`"),
    ("HistoryEncoder", "one id", lambda w: encode(w, "a"), InvalidSequencesError, "`histories`"),
    ("HistoryEncoder", "a missing history", lambda w: encode(w, [None]), InvalidSequencesError, "`histories`"),
    ("HistoryEncoder", "rows of a dataset", lambda w: encode(w, [{"items": ["a"]}]), InvalidSequencesError, "`histories`"),
    ("HistoryEncoder", "unknown items", lambda w: encode(w, [["a", "x"]]), UnknownItemError, "'x'"),
    ("HistoryEncoder", "NaN", lambda w: encode(w, [[NAN]]), UnknownItemError, "float"),
    ("HistoryEncoder", "fewer users", lambda w: encode(w, [["a"], ["b"]], user_ids=[1]), InvalidSequencesError, "`user_ids`"),
    ("HistoryEncoder", "one user", lambda w: encode(w, [["a"]], user_ids=1), InvalidSequencesError, "`user_ids`"),
    ("PromptEncoder", "no room", lambda w: PromptEncoder(w.tokenizer, LAYOUT, False, max_source_length=2), ValueError, "`max_source_length`"),
    ("PromptEncoder", "a length that is text", lambda w: PromptEncoder(w.tokenizer, LAYOUT, False, max_target_length="32"), ValueError, "`max_target_length`"),
    ("PromptEncoder", "a list for a layout", lambda w: PromptEncoder(w.tokenizer, [4, 4], False), TypeError, "`layout`"),
    ("PromptEncoder", "no column", lambda w: prompts(w, {"text": ["C0C4"]}), InvalidSequencesError, "`rows`"),
    ("PromptEncoder", "a list of rows", lambda w: prompts(w, [{"user": "C0C4"}]), TypeError, "`rows`"),
    ("PromptEncoder", "a dataset", lambda w: prompts(w, w.rows), TypeError, "`rows`"),
    ("PromptEncoder", "columns of two lengths", lambda w: PromptEncoder(w.tokenizer, LAYOUT, False).encode_examples({"user": ["C0C4"], "answer": []}), InvalidSequencesError, "`rows`"),
    ("PromptEncoder", "a row without codes", lambda w: prompts(w, {"user": ["C0C4", "hello"]}), InvalidSequencesError, "row 2: `user` has no codes"),
    ("PromptEncoder", "a number for a text", lambda w: prompts(w, {"user": [7]}), InvalidSequencesError, "no `user`"),
    ("PromptEncoder", "half a semantic ID", lambda w: prompts(w, {"user": ["C0"]}), InvalidSequencesError, "1 codes"),
    ("PromptEncoder", "too large codes", lambda w: prompts(w, {"user": ["C0C999999999999"]}), InvalidSequencesError, "level 2"),

    ("PrefixTable", "a list", lambda w: PrefixTable([[0, 1]], [4, 4]), TypeError, "`codes`"),
    ("PrefixTable", "floats", lambda w: PrefixTable(torch.ones(1, 2), [4, 4]), InvalidCodesError, "`codes`"),
    ("PrefixTable", "negative", lambda w: PrefixTable(-CODES, [4, 4]), InvalidCodesError, "`codes`"),
    ("PrefixTable", "empty", lambda w: PrefixTable(CODES[:0], [4, 4]), InvalidCodesError, "`codes`"),
    ("PrefixTable", "wrong width", lambda w: PrefixTable(CODES, [4]), InvalidCodesError, "`codes`"),
    ("PrefixTable", "sizes that are floats", lambda w: PrefixTable(CODES, [4.5, 4.5]), InvalidCodesError, "`codebook_sizes`"),
    ("PrefixTable", "one size", lambda w: PrefixTable(CODES, 4), InvalidCodesError, "`codebook_sizes`"),
    ("PrefixTable", "a token twice", lambda w: PrefixTable(CODES, [4, 4], torch.zeros(8, dtype=torch.int64)), ValueError, "`token_ids`"),
    ("PrefixTable", "tokens that are floats", lambda w: PrefixTable(CODES, [4, 4], torch.arange(8) + 0.5), ValueError, "`token_ids`"),
    ("PrefixTable", "tokens that are booleans", lambda w: PrefixTable(CODES, [1, 1], torch.tensor([True, False])), ValueError, "`"),
    ("PrefixTable", "unsigned and too large", lambda w: PrefixTable(torch.tensor([[9, 0]], dtype=torch.uint16), [4, 4]), InvalidCodesError, "9"),
    ("PrefixTable.restrict", "a mask", lambda w: w.table.restrict(torch.ones(12, dtype=torch.bool)), ValueError, "nonzero"),
    ("PrefixTable.restrict", "no rows", lambda w: w.table.restrict(torch.tensor([], dtype=torch.int64)), ValueError, "`rows`"),
    ("PrefixTable.restrict", "too large", lambda w: w.table.restrict(torch.tensor([12])), ValueError, "`rows`"),
    ("PrefixTable.restrict", "floats", lambda w: w.table.restrict(torch.tensor([0.5])), ValueError, "`rows`"),
    ("PrefixTable.lookup", "longer than a semantic ID", lambda w: w.table.lookup(torch.zeros(1, 3, dtype=torch.int64)), ValueError, "`prefixes`"),
    ("PrefixTable.from_pretrained", "no table", lambda w: PrefixTable.from_pretrained(w.copy("catalog")), FileNotFoundError, "prefix_table.safetensors"),
    ("PrefixTable.from_pretrained", "truncated safetensors", lambda w: PrefixTable.from_pretrained(w.copy("retriever", prefix_table__safetensors=truncated)), CorruptCatalogError, "prefix_table.safetensors"),
    ("PrefixTable.from_pretrained", "a 2 GiB header", lambda w: PrefixTable.from_pretrained(w.copy("retriever", prefix_table__safetensors=TWO_GIB_HEADER)), CorruptCatalogError, "2,147,483,648 bytes"),
    ("PrefixTable.from_pretrained", "mismatched fingerprint", lambda w: PrefixTable.from_pretrained(w.copy("retriever"), catalog=w.other_catalog), FingerprintMismatchError, "`catalog`"),
    ("SemanticIdLogitsProcessor", "a catalog", lambda w: SemanticIdLogitsProcessor(w.catalog, 1), TypeError, "`table`"),
    ("SemanticIdLogitsProcessor", "a negative length", lambda w: SemanticIdLogitsProcessor(w.table, -1), ValueError, "`prompt_length`"),
    ("SemanticIdLogitsProcessor", "several end tokens", lambda w: SemanticIdLogitsProcessor(w.table, 1, eos_token_id=[1]), ValueError, "`eos_token_id`"),
    ("SemanticIdLogitsProcessor", "an end token that is text", lambda w: SemanticIdLogitsProcessor(w.table, 1, eos_token_id="a"), ValueError, "`eos_token_id`"),
    ("SemanticIdLogitsProcessor", "scores of fewer tokens", lambda w: SemanticIdLogitsProcessor(w.table, w.input_ids.shape[1])(w.input_ids, torch.zeros(1, 4)), ValueError, "`scores`"),
    ("SemanticIdLogitsProcessor", "longer than the input", lambda w: SemanticIdLogitsProcessor(w.table, 5)(w.input_ids, torch.zeros(1, 12)), ValueError, "`prompt_length`"),

    ("retrieve", "a name for a model", lambda w: retrieve("runs/gr", w.tokenizer, w.catalog, [["a"]]), TypeError, "`model`"),
    ("retrieve", "a name for a tokenizer", lambda w: retrieve(w.model, "runs/gr", w.catalog, [["a"]]), TypeError, "`tokenizer`"),
    ("retrieve", "a folder for a catalog", lambda w: retrieve(w.model, w.tokenizer, "runs/gr", [["a"]]), TypeError, "`catalog`"),
    ("retrieve", "mismatched fingerprint", lambda w: retrieve(w.model, w.tokenizer, w.other_catalog, [["a"]]), FingerprintMismatchError, "fingerprint"),
    ("retrieve", "a table of another catalog", lambda w: ask(w, prefix_table=PrefixTable.from_catalog(w.other_catalog, w.tokenizer)), FingerprintMismatchError, "`prefix_table`"),
    ("retrieve", "zero-length history", lambda w: ask(w, [[]]), InvalidSequencesError, "`histories`"),
    ("retrieve", "unknown items", lambda w: ask(w, [["x"]]), UnknownItemError, "'x'"),
    ("retrieve", "top_k of 0", lambda w: ask(w, top_k=0), ValueError, "`top_k`"),
    ("retrieve", "a negative top_k", lambda w: ask(w, top_k=-1), ValueError, "`top_k`"),
    ("retrieve", "top_k of half an item", lambda w: ask(w, top_k=2.5), ValueError, "`top_k`"),
    ("retrieve", "top_k that is text", lambda w: ask(w, top_k="10"), ValueError, "`top_k`"),
    ("retrieve", "top_k above the catalog", lambda w: ask(w, top_k=13), UnsatisfiableRequestError, "`top_k`"),
    ("retrieve", "top_k above what is left", lambda w: ask(w, top_k=11), UnsatisfiableRequestError, "`top_k`"),
    ("retrieve", "num_beams of 0", lambda w: ask(w, num_beams=0), ValueError, "`num_beams`"),
    ("retrieve", "a billion beams", lambda w: ask(w, num_beams=10**9), ValueError, "`num_beams` is 1000000000"),
    ("retrieve", "num_beams of 20 digits", lambda w: ask(w, num_beams=10**20), ValueError, "`num_beams`"),
    ("retrieve", "num_beams that is text", lambda w: ask(w, num_beams="some"), ValueError, "`num_beams`"),
    ("retrieve", "num_beams of half a beam", lambda w: ask(w, num_beams=2.5), ValueError, "`num_beams`"),
    ("retrieve", "no num_beams", lambda w: ask(w, num_beams=[]), ValueError, "`num_beams`"),
    ("retrieve", "num_beams of other levels", lambda w: ask(w, num_beams=[2, 2, 2]), ValueError, "`num_beams`"),
    ("retrieve", "batches of none", lambda w: ask(w, batch_size=0), ValueError, "`batch_size`"),
    ("retrieve", "a history of none", lambda w: ask(w, max_history=0), ValueError, "`max_history`"),
    ("retrieve", "a temperature of NaN", lambda w: ask(w, temperature=NAN), ValueError, "`temperature`"),
    ("retrieve", "a negative temperature", lambda w: ask(w, temperature=-1.0), ValueError, "`temperature`"),
    ("retrieve", "a temperature that is text", lambda w: ask(w, temperature="ho"), ValueError, "`temperature`"),
    ("retrieve", "a seed that is text", lambda w: ask(w, temperature=1.0, seed="x"), ValueError, "`seed`"),
    ("retrieve", "one item to exclude", lambda w: ask(w, exclude="c"), ValueError, "`exclude`"),
    ("retrieve", "lists to exclude for others", lambda w: ask(w, exclude=[["c"], ["d"]]), InvalidSequencesError, "`exclude`"),
    ("retrieve", "no item to exclude", lambda w: ask(w, exclude=7), ValueError, "`exclude`"),
    ("retrieve", "items to exclude and a list", lambda w: ask(w, exclude=["c", ["d"]]), InvalidSequencesError, "'c' at place 0"),
    ("retrieve", "a missing list to exclude", lambda w: ask(w, exclude=[None]), InvalidSequencesError, "None at place 0"),
    ("retrieve", "candidates in a dict", lambda w: ask(w, candidates={"c": 1}), ValueError, "`candidates`"),
    ("retrieve", "a temperature next to 0", lambda w: ask(w, temperature=1e-45), ValueError, "`temperature`"),
    ("retrieve", "unknown candidates", lambda w: ask(w, candidates=["x"]), UnknownItemError, "'x'"),
    ("retrieve", "no candidates", lambda w: ask(w, candidates=[]), UnsatisfiableRequestError, "`top_k`"),
    ("retrieve", "a share of NaN", lambda w: ask(w, unseen_items=["c"], unseen_fraction=NAN), ValueError, "`unseen_fraction`"),
    ("retrieve", "a share without items", lambda w: ask(w, unseen_fraction=0.5), ValueError, "`unseen_items`"),
    ("retrieve", "weights that are NaN", lambda w: retrieve(nan_model(w), w.tokenizer, w.catalog, [["a"]], top_k=2), ValueError, "not finite"),
    ("rank_catalog", "num_beams of 0", lambda w: rank_catalog(w.model, w.tokenizer, w.catalog, [["a"]], num_beams=0), ValueError, "`num_beams`"),
    ("rank_catalog", "zero-length history", lambda w: rank_catalog(w.model, w.tokenizer, w.catalog, [[]]), InvalidSequencesError, "`histories`"),
    ("retrieve_unconstrained", "num_beams of 0", lambda w: retrieve_unconstrained(w.model, w.tokenizer, w.catalog, [["a"]], num_beams=0), ValueError, "`num_beams`"),
    ("retrieve_unconstrained", "a fallback of no kind", lambda w: retrieve_unconstrained(w.model, w.tokenizer, w.catalog, [["a"]], fallback="nearest"), ValueError, "`fallback`"),
    ("constrained_beam_search", "a list", lambda w: search(w, [[3, 4]]), TypeError, "`input_ids`"),
    ("constrained_beam_search", "empty", lambda w: search(w, w.input_ids[:0]), ValueError, "`input_ids`"),
    ("constrained_beam_search", "floats", lambda w: search(w, w.input_ids.float()), ValueError, "`input_ids`"),
    ("constrained_beam_search", "padded on the right", lambda w: constrained_beam_search(w.model, w.input_ids, torch.tensor([[1, 1, 0]]), w.table, 2), ValueError, "`attention_mask`"),
    ("constrained_beam_search", "num_beams of 0", lambda w: search(w, num_beams=0), ValueError, "`num_beams`"),
    ("constrained_beam_search", "beams that are text", lambda w: search(w, num_beams="all"), ValueError, "'all'"),
    ("constrained_beam_search", "a name for a model", lambda w: constrained_beam_search("runs/gr", w.input_ids, None, w.table, 2), TypeError, "`model`"),
    ("constrained_beam_search", "a catalog", lambda w: constrained_beam_search(w.model, w.input_ids, None, w.catalog, 2), TypeError, "`prefix_table`"),
    ("constrained_beam_search", "a list for a mask", lambda w: constrained_beam_search(w.model, w.input_ids, [[1, 1, 1]], w.table, 2), TypeError, "`attention_mask`"),
    ("constrained_beam_search", "a number for a generator", lambda w: search(w, temperature=1.0, generator=3), TypeError, "`generator`"),
    ("constrained_beam_search", "a number of leaves", lambda w: search(w, excluded_leaves=5), TypeError, "`excluded_leaves`"),
    ("constrained_beam_search", "tokens that the model doesn't have", lambda w: constrained_beam_search(w.model, w.input_ids, None, PrefixTable(CODES, [4, 4], torch.arange(8) + 10**6), 2), ValueError, "1000007"),
    ("constrained_beam_search", "a leaf too large", lambda w: search(w, excluded_leaves=torch.tensor([[0, 99]])), ValueError, "`excluded_leaves`"),
    ("constrained_beam_search", "a normalization of no kind", lambda w: search(w, normalization="softmax"), ValueError, "`normalization`"),
    ("score_catalog", "one dimension", lambda w: score_catalog(w.model, w.input_ids[0], None, w.table), ValueError, "`input_ids`"),
    ("score_catalog", "a list", lambda w: score_catalog(w.model, [[3]], None, w.table), TypeError, "`input_ids`"),
    ("semantic_id_beam_search", "no table", lambda w: generate(w, prefix_table=None), ValueError, "`prefix_table`"),
    ("semantic_id_beam_search", "a catalog for a table", lambda w: generate(w, prefix_table=w.catalog), TypeError, "`prefix_table`"),
    ("semantic_id_beam_search", "no results", lambda w: generate(w, num_return_sequences=0), ValueError, "`num_return_sequences`"),
    ("semantic_id_beam_search", "padded on the right", lambda w: generate(w, attention_mask=torch.tensor([[1, 1, 0]])), ValueError, "`attention_mask`"),
    ("semantic_id_beam_search", "more results than beams", lambda w: generate(w, num_beams=2, num_return_sequences=3), ValueError, "`num_return_sequences`"),

    ("load_retriever", "no folder", lambda w: load_retriever(str(w.path("x/y/z"))), FileNotFoundError, "x/y/z"),
    ("load_retriever", "an empty folder", lambda w: load_retriever(w.folder), FileNotFoundError, "config.json"),
    ("load_retriever", "no JSON", lambda w: load(w, config__json="{"), CorruptFileError, "config.json"),
    ("load_retriever", "JSON of a list", lambda w: load(w, config__json="[]"), CorruptFileError, "config.json"),
    ("load_retriever", "JSON with wrong types", lambda w: load(w, config__json=with_entry(hidden_size="wide")), CorruptFileError, "hidden_size"),
    ("load_retriever", "mismatched fingerprint", lambda w: load(w, config__json=with_entry(semantic_id_fingerprint="0" * 32)), FingerprintMismatchError, "0" * 32),
    ("load_retriever", "a fingerprint of no type", lambda w: load(w, config__json=with_entry(semantic_id_fingerprint=[1])), FingerprintMismatchError, "[1]"),
    ("load_retriever", "truncated safetensors", lambda w: load(w, model__safetensors=truncated), CorruptFileError, "retriever"),
    ("load_retriever", "a 2 GiB header", lambda w: load(w, model__safetensors=TWO_GIB_HEADER), CorruptFileError, "retriever"),
    ("load_retriever", "a truncated catalog", lambda w: load(w, semantic_ids__safetensors=truncated), CorruptCatalogError, "semantic_ids.safetensors"),
    ("load_retriever", "no tokenizer", lambda w: load(w, tokenizer_config__json="{"), CorruptFileError, "retriever"),
    ("load_retriever", "no codes in the tokenizer", lambda w: load(w, tokenizer_config__json=with_entry(codebook_sizes=None)), ValueError, "`codebook_sizes`"),
    ("load_retriever", "sizes of no type in the tokenizer", lambda w: load(w, tokenizer_config__json=with_entry(codebook_sizes="4")), ValueError, "`codebook_sizes`"),
    ("load_retriever", "a token with a line end", lambda w: load_retriever("me/x", token="hf_\n"), ValueError, "`token`"),
    ("GenerativeRetrievalPipeline", "no tokenizer", lambda w: GenerativeRetrievalPipeline(w.model, catalog=w.catalog), ValueError, "`tokenizer"),
    ("GenerativeRetrievalPipeline", "mismatched fingerprint", lambda w: GenerativeRetrievalPipeline(w.model, w.tokenizer, catalog=w.other_catalog), FingerprintMismatchError, "fingerprint"),
    ("GenerativeRetrievalPipeline", "zero-length history", lambda w: w.recommend([]), InvalidSequencesError, "`inputs`"),
    ("GenerativeRetrievalPipeline", "a zero-length history of two", lambda w: w.recommend([["a"], []], top_k=2), InvalidSequencesError, "rows 1"),
    ("GenerativeRetrievalPipeline", "one id", lambda w: w.recommend("a"), InvalidSequencesError, "`inputs`"),
    ("GenerativeRetrievalPipeline", "nothing", lambda w: w.recommend(None), InvalidSequencesError, "`inputs`"),
    ("GenerativeRetrievalPipeline", "a row of a dataset", lambda w: w.recommend({"history": ["a"]}), InvalidSequencesError, "`inputs`"),
    ("GenerativeRetrievalPipeline", "NaN", lambda w: w.recommend([NAN]), UnknownItemError, "nan"),
    ("GenerativeRetrievalPipeline", "a missing id", lambda w: w.recommend(["a", None]), (UnknownItemError, InvalidSequencesError), "None"),
    ("GenerativeRetrievalPipeline", "unknown items", lambda w: w.recommend(["x"], top_k=2), UnknownItemError, "'x'"),
    ("GenerativeRetrievalPipeline", "top_k of 0", lambda w: w.recommend(["a"], top_k=0), ValueError, "`top_k`"),
    ("GenerativeRetrievalPipeline", "an argument of no name", lambda w: w.recommend(["a"], topk=5), TypeError, "topk"),
    ("GenerativeRetrievalPipeline", "one item to exclude", lambda w: w.recommend(["a"], exclude="bc"), ValueError, "`exclude`"),
    ("GenerativeRetrievalPipeline", "one candidate", lambda w: w.recommend(["a"], candidates="bc"), ValueError, "`candidates`"),
    ("GenerativeRetrievalPipeline", "a batch of none of a stream", lambda w: list(w.recommend(iter([["a"]]), batch_size=0)), ValueError, "`batch_size`"),
    ("GenerativeRetrievalPipeline", "a batch of none", lambda w: w.recommend([["a"]], batch_size=0), ValueError, "`batch_size`"),
)
