# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Many callers at once: threads with one model, processes with one memory-mapped folder."""

import gc
import multiprocessing
import sys
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from forge_hf import GenerativeRetrievalPipeline, SemanticIdCatalog, SemanticIdTokenizer, load_retriever, retrieve
from forge_hf.generation import PrefixTable
from forge_hf.generation.catalog_tables import table_of
from forge_hf.generation.history_search import Clock, eval_mode
from forge_hf.semantic_ids import catalog as catalog_module


SIZES = [6, 5, 4]


def make_catalog(num_items=60):
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (num_items,), generator=generator) for size in SIZES], dim=-1)
    ids = [f"i{n}" for n in range(num_items)]
    return SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=SIZES, on_collision="keep")


@pytest.fixture
def retriever(architecture, make_model):
    catalog = make_catalog()
    overrides = {"dropout_rate": 0.3} if architecture == "t5" else {"attention_dropout": 0.3}
    model = make_model(architecture, sum(SIZES), semantic_id_fingerprint=catalog.fingerprint, **overrides)
    return model, SemanticIdTokenizer(layout=catalog.layout), catalog


def requests(catalog, count):
    """Requests of many kinds: histories with options of `retrieve`."""
    ids = catalog.item_ids
    kinds = [
        {},
        {"top_k": 3, "num_beams": 4},
        {"top_k": 20, "num_beams": 2},
        {"exclude": ids[:25], "top_k": 5},
        {"exclude": ids[40:], "num_beams": [3, 6, 12]},
        {"candidates": ids[10:40], "top_k": 7},
        {"temperature": 1.5, "seed": 7, "top_k": 5},
        {"exclude_history": False, "num_beams": "all", "top_k": 12},
        {"unseen_items": ids[:8], "unseen_fraction": 0.4, "top_k": 5},
        {"timings": True, "top_k": 4},
    ]
    return [
        ([ids[n % 60 : n % 60 + 1 + n % 7], ids[(7 * n) % 50 : (7 * n) % 50 + 2]], kinds[n % len(kinds)])
        for n in range(count)
    ]


def answer(retriever, request):
    histories, options = request
    result = retrieve(*retriever, histories, **options)
    return result.item_ids, result.scores


def in_threads(function, arguments, num_threads=8):
    """Results of calls that really run at once: the interpreter changes threads fifty times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(function, arguments))
    finally:
        sys.setswitchinterval(interval)


def test_threads_get_what_they_would_get_alone(retriever):
    model, _, catalog = retriever
    todo = requests(catalog, 20)
    alone = [answer(retriever, request) for request in todo]
    # In training mode a search needs eval mode for a while, and dropout would change what others find meanwhile.
    model.train()
    assert in_threads(lambda request: answer(retriever, request), todo) == alone
    assert all(module.training for module in model.modules())
    assert all(not hasattr(module, "shared_prompt") for module in model.modules())


def test_threads_share_a_pipeline(retriever):
    recommend = GenerativeRetrievalPipeline(retriever[0], retriever[1], catalog=retriever[2])
    todo = requests(retriever[2], 10)
    alone = [recommend(histories, **options) for histories, options in todo]
    assert in_threads(lambda request: recommend(request[0], **request[1]), todo) == alone


def test_eval_mode_lasts_until_the_last_caller_is_done():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    model[1].eval()
    first, second = eval_mode(model), eval_mode(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(module.training for module in model.modules())
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_clock_does_not_run_for_other_threads(retriever):
    model = retriever[0]
    reader = model.get_encoder() if model.config.is_encoder_decoder else model.get_decoder()
    clock, tokens = Clock(torch.device("cpu")), torch.tensor([[4, 5]])
    with clock.search(model):
        other = threading.Thread(target=reader, args=(tokens,))
        other.start()
        other.join()
    assert clock.milliseconds["prefill"] == 0
    with clock.search(model):
        reader(tokens)
    assert clock.milliseconds["prefill"] > 0


def test_a_table_is_built_once_for_all_threads(retriever, monkeypatch):
    _, tokenizer, catalog = retriever
    built, original = [], PrefixTable.from_catalog
    monkeypatch.setattr(PrefixTable, "from_catalog", lambda *args: built.append(1) or original(*args))
    tables = in_threads(lambda _: table_of(catalog, tokenizer, "cpu"), range(16))
    assert len(built) == 1 and len(set(map(id, tables))) == 1
    other = SemanticIdTokenizer(layout=catalog.layout, num_user_buckets=3)
    assert table_of(catalog, other, "cpu").token_ids[0] == tables[0].token_ids[0] + 3
    # Kept no longer than what they are of.
    short_lived = make_catalog(10)
    table = weakref.ref(table_of(short_lived, tokenizer, "cpu"))
    gc.collect()
    assert table() is not None
    del short_lived
    gc.collect()
    assert table() is None


def _serve(folder, connection):
    """What a process answers, and what it has of the two mapped files in memory, in kB: copies are `Anonymous`."""
    torch.set_num_threads(1)
    retriever = load_retriever(folder)
    todo = requests(retriever.catalog, 10)
    answers = [answer(retriever, request) for request in todo]
    answers += [retriever.catalog.items_for(retriever.catalog.codes_for(["i3", "i41"]))]
    mapped, name = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            name = Path(values[-1]).name if len(values) > 4 else None
        elif name in ("semantic_ids.safetensors", "prefix_table.safetensors") and values[-1] == "kB":
            mapped[name, key] = mapped.get((name, key), 0) + int(values[0])
    connection.send((answers, mapped))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory maps are read from /proc")
def test_processes_share_a_mapped_folder(retriever, tmp_path, monkeypatch):
    model, tokenizer, catalog = retriever
    monkeypatch.setattr(catalog_module, "MIN_INDEXED_ITEMS", 1)
    for part in (model, tokenizer, catalog, PrefixTable.from_catalog(catalog, tokenizer)):
        part.save_pretrained(tmp_path)
    expected = [answer(retriever, request) for request in requests(catalog, 10)]
    expected += [catalog.items_for(catalog.codes_for(["i3", "i41"]))]
    context = multiprocessing.get_context("fork")  # quick: nothing is imported anew
    connections, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=_serve, args=(tmp_path, theirs)))
        processes[-1].start()
        connections.append(ours)
    for connection, process in zip(connections, processes, strict=True):
        assert connection.poll(120)
        answers, mapped = connection.recv()
        process.join(60)
        assert process.exitcode == 0 and answers == expected
        for name in ("semantic_ids.safetensors", "prefix_table.safetensors"):
            assert mapped[name, "Rss:"] > 0 and mapped[name, "Anonymous:"] == 0


def test_memory_stays_flat(make_model):
    catalog = make_catalog()
    model = make_model("qwen2", sum(SIZES), semantic_id_fingerprint=catalog.fingerprint)
    retriever = model, SemanticIdTokenizer(layout=catalog.layout), catalog
    todo = [(histories, options | {"num_beams": 4}) for histories, options in requests(catalog, 10)]

    def serve(rounds):
        with ThreadPoolExecutor(2) as pool:
            for _ in range(rounds):
                list(pool.map(lambda request: answer(retriever, request), todo))
        gc.collect()
        tensors = sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())
        return tracemalloc.get_traced_memory()[0], tensors

    tracemalloc.start()
    try:
        serve(4)  # the interpreter's own stores fill up
        before, tensors_before = serve(1)
        after, tensors_after = serve(4)
    finally:
        tracemalloc.stop()
    assert tensors_after <= tensors_before
    assert after - before < 40 * 2**10  # bytes: 1 kB for each of 40 requests, of which the results alone take more
