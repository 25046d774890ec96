# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of text into training: every row once an epoch, on any number of processes, workers and files."""

import csv
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader

from forge_hf.data import MalformedRows, read_text_rows
from forge_hf.errors import InvalidSequencesError, MalformedRowsError
from forge_hf.semantic_ids import SemanticIdCatalog, SemanticIdLayout
from forge_hf.tokenization import PromptEncoder, SemanticIdTokenizer
from forge_hf.training import (
    PromptRows,
    PromptStream,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    create_retriever,
)


LAYOUT = SemanticIdLayout([20, 20])
ENCODER = PromptEncoder(SemanticIdTokenizer(layout=LAYOUT), LAYOUT, is_encoder_decoder=False)


def row(number):
    """A row that its answer names."""
    return {"user": "x" + LAYOUT.to_text([0, number % 7]), "answer": LAYOUT.to_text([number // 20, number % 20])}


def numbers(examples):
    """The rows that examples were made of."""
    codes = [labels[labels >= 0][:2] - ENCODER.tokenizer.convert_tokens_to_ids("C0") for _, labels in examples]
    return [int(code[0]) * 20 + int(code[1]) - 20 for code in codes]


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["system", "user", "answer"])
        writer.writeheader()
        writer.writerows({"system": "s", **row} for row in rows)
    return str(path)


def stream(*paths):
    return load_dataset("csv", data_files=list(paths), split="train", streaming=True, na_filter=False)


@pytest.fixture(scope="module", params=[1, 3], ids=["one file", "three files"])
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    sizes = [157] if request.param == 1 else [100, 7, 50]
    starts = np.cumsum([0, *sizes])
    return [
        write(folder / f"{start}.csv", map(row, range(start, start + size)))
        for start, size in zip(starts, sizes, strict=False)
    ]


@pytest.mark.parametrize("buffer_size", [0, 16])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_row_once_an_epoch(files, num_processes, num_workers, buffer_size):
    seen = [Counter(), Counter()]
    for process in range(num_processes):
        rows = PromptStream(stream(*files), ENCODER, buffer_size, 3, process, num_processes)
        loader = DataLoader(rows, batch_size=4, num_workers=num_workers, collate_fn=numbers)
        workers = max(num_workers, 1)
        # Workers take turns: their batches are dealt out again.
        parts = [process * workers + worker for worker in range(workers)]
        counts = [len(range(part, 157, num_processes * workers)) for part in parts]
        batches = iter(loader)
        dealt = [next(batches) for _ in range(workers * (2 * max(counts) // 4 + 1))]
        for worker, count in enumerate(counts):
            own = [number for batch in dealt[worker::workers] for number in batch]
            epochs = own[:count], own[count : 2 * count]
            assert (epochs[0] == epochs[1]) == (buffer_size == 0)
            for counter, epoch in zip(seen, epochs, strict=True):
                counter.update(epoch)
    assert seen == [Counter(range(157))] * 2


@pytest.mark.parametrize("buffer_size", [0, 16])
def test_a_stream_that_was_cut(files, buffer_size):
    rows = stream(*files)
    streams = {
        range(120): rows.take(120),
        range(30, 157): rows.skip(30).map(lambda row: row),
        range(20, 90): rows.shuffle(buffer_size=1).skip(20).take(70).filter(lambda row: True),
    }
    for expected, cut in streams.items():
        seen = Counter()
        for process in range(2):
            seen.update(numbers(PromptStream(cut, ENCODER, buffer_size, 3, process, 2).epoch(0)))
        assert sum(seen.values()) == len(expected) and max(seen.values()) == 1
        if expected != range(20, 90):  # files shuffled before
            assert seen == Counter(expected)


def make_trainer(files, folder, **settings):
    torch.manual_seed(0)
    codes = [[number // 20, number % 20] for number in range(400)]
    catalog = SemanticIdCatalog.from_codes(list(range(400)), codes, codebook_sizes=[20, 20], on_collision="keep")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model, tokenizer = create_retriever("qwen2-small", catalog, **sizes)
    args = RetrievalTrainingArguments(
        output_dir=str(folder), use_cpu=True, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
        report_to="none", disable_tqdm=True, logging_steps=1, **settings,
    )  # fmt: skip
    return RetrievalTrainer(model, args, catalog=catalog, processing_class=tokenizer, train_dataset=stream(*files))


def one_step(files, folder, num_processes):
    """Loss and gradient of a step over the first 32 rows."""
    trainer = make_trainer(
        files, folder, max_steps=1, per_device_train_batch_size=16 // num_processes, gradient_accumulation_steps=2,
        shuffle_buffer_size=0, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0,
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    gradient = {name: before[name] - weight.detach() for name, weight in trainer.model.named_parameters()}
    return trainer.state.log_history[0]["loss"], gradient


def on_two_processes(files, folder):
    torch.set_num_threads(1)
    settings = {"max_steps": 5, "per_device_train_batch_size": 4, "dataloader_num_workers": 2}
    trainer = make_trainer(files, folder, **settings)
    batches = list(islice(trainer.get_train_dataloader(), 24))  # more than an epoch of 157 rows on 2 x 2 workers
    dealt = [numbers([(None, labels) for labels in batch["labels"]]) for batch in batches]
    torch.save([dealt, *one_step(files, folder, num_processes=2)], folder / f"rank{trainer.args.process_index}.pt")


def test_the_trainer_on_two_processes(files, tmp_path):
    debug_launcher(on_two_processes, args=(files, tmp_path), num_processes=2)
    loss, gradient = one_step(files, tmp_path, num_processes=1)
    seen = Counter()
    for rank in range(2):
        dealt, other_loss, other_gradient = torch.load(tmp_path / f"rank{rank}.pt")
        for worker in range(2):
            count = len(range(2 * rank + worker, 157, 4))
            seen.update([number for batch in dealt[worker::2] for number in batch][:count])
        assert other_loss == pytest.approx(loss, rel=1e-4)
        for name, expected in gradient.items():
            torch.testing.assert_close(other_gradient[name], expected, rtol=1e-3, atol=1e-6)
    assert seen == Counter(range(157))


def test_order_follows_seed_and_epoch(files):
    def order(seed, epoch):
        return numbers(PromptStream(stream(*files), ENCODER, 40, seed).epoch(epoch))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    rows = PromptStream(stream(*files), ENCODER, 40, 0)
    rows.set_epoch(1)
    assert numbers(islice(rows, 157)) == order(0, 1)


def test_malformed_rows_of_a_stream(tmp_path, caplog):
    rows = [row(number) for number in range(380)]
    rows[10]["user"], rows[300]["answer"] = "no codes", ""
    paths = [write(tmp_path / "a.csv", rows[:200]), write(tmp_path / "b.csv", rows[200:])]
    malformed = MalformedRows(max_rate=0.01, min_rows=100, source="AL-GR")
    examples = PromptStream(stream(*paths), ENCODER, 0, malformed=malformed)
    with pytest.warns(UserWarning, match=r"2 of 380 rows .* row 11: `user` has no codes \(file 1\)"):
        assert numbers(examples.epoch(0)) == [number for number in range(380) if number not in (10, 300)]
    assert malformed.first[1] == (101, "no `answer` (file 2)")
    assert "1 of 200 rows" in caplog.text
    strict = PromptStream(stream(*paths), ENCODER, 0, malformed=MalformedRows(max_rate=0.001, min_rows=100))
    with pytest.raises(MalformedRowsError, match="row 11"):
        list(DataLoader(strict, batch_size=4, num_workers=1, collate_fn=numbers))


def test_malformed_rows_have_one_number_at_hand_and_streamed(tmp_path):
    lines = ["system,user,answer", *(f"s,{row(number)['user']},{row(number)['answer']}" for number in range(200))]
    lines[101], lines[150], lines[160] = "too few", "too,many,values,here", "s,no codes,C0C20"
    lines.insert(20, "")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    counts = [MalformedRows(0.5), MalformedRows(0.5)]
    with pytest.warns(UserWarning, match="3 of 200 rows .* row 101: .*; row 150: .*; row 160: `user` has no codes"):
        PromptRows(read_text_rows(path), ENCODER, counts[0])
    with pytest.warns(UserWarning, match="3 of 200 rows"):
        list(PromptStream(read_text_rows(path, streaming=True), ENCODER, 0, malformed=counts[1]).epoch(0))
    assert counts[0].first == counts[1].first and counts[0].summary() == counts[1].summary()


def test_streams_that_will_not_do():
    few = Dataset.from_list([row(0)]).to_iterable_dataset()
    with pytest.raises(InvalidSequencesError, match="each of the 2 processes"):
        next(iter(PromptStream(few, ENCODER, num_processes=2)))
    with pytest.raises(InvalidSequencesError, match="lack \\['user', 'answer'\\]"):
        PromptStream(Dataset.from_dict({"input": ["C0"]}).to_iterable_dataset(), ENCODER)
    with pytest.raises(InvalidSequencesError, match="got none"):
        PromptStream(few.filter(lambda row: False), ENCODER)
    with pytest.raises(ValueError, match="`buffer_size`"):
        PromptStream(few, ENCODER, buffer_size=-1)


def test_rows_of_a_dataset():
    rows = [row(number) for number in range(300)]
    rows[7]["answer"] = None
    malformed = MalformedRows(max_rate=0.1)
    with pytest.warns(UserWarning, match="row 8: no `answer`"):
        examples = PromptRows(Dataset.from_list(rows), ENCODER, malformed)
    assert len(examples) == len(examples.lengths) == 299
    assert numbers(examples.__getitems__([0, 7, 298])) == [0, 8, 299]
    assert (examples.lengths == [len(examples[index][0]) for index in range(299)]).all()
    with pytest.raises(MalformedRowsError):
        PromptRows(Dataset.from_list(rows[7:8]), ENCODER)
