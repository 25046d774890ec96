# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""A loss that turns NaN, a codebook that collapses, autocast to bf16."""

import json
import warnings

import pytest
import torch
from accelerate import debug_launcher
from datasets import Dataset

from forge_hf import SyntheticMarket
from forge_hf.data import ItemEmbeddings, leave_one_out
from forge_hf.errors import ForgeError, NonFiniteLossError
from forge_hf.models import RQVAEConfig, RQVAEModel
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.training import RetrievalTrainer, RetrievalTrainingArguments, RQVAETrainingArguments, create_retriever
from forge_hf.training.rqvae_trainer import RQVAETrainer


COMMON = {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
SAVES = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1}
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip


def item_tokenizer_trainer(folder, sizes=(8, 8), **changes):
    torch.manual_seed(0)
    items = ItemEmbeddings(torch.randn(60, 6), [f"i{n}" for n in range(60)])
    model = RQVAEModel(RQVAEConfig(input_dim=6, hidden_sizes=[8], codebook_dim=4, codebook_sizes=list(sizes)))
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 12, "warmup_steps": 0, **COMMON, **changes}
    return RQVAETrainer(model, RQVAETrainingArguments(str(folder), **settings), train_dataset=items)


def spoil(trainer, step, what):
    """Makes the loss, or only its gradient, NaN from a step on."""
    compute = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        loss = compute(*args, **kwargs)
        if trainer.state.global_step + 1 < step:
            return loss
        if what == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
            return loss
        return loss * float(what)

    trainer.compute_loss = compute_loss


def weights_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("resumes", [False, True])
def test_a_loss_that_is_no_number_stops_the_run(what, resumes, tmp_path):
    if resumes:
        trainer = item_tokenizer_trainer(tmp_path, **SAVES)
        spoil(trainer, 5, "nan")
        with pytest.raises(NonFiniteLossError):
            trainer.train()
    trainer = item_tokenizer_trainer(tmp_path, **SAVES)
    seen, before = [], {}
    read = trainer.train_dataset.__getitems__
    trainer.train_dataset.__getitems__ = lambda rows: seen.append(rows) or read(rows)  # also for a fingerprint
    spoil(trainer, 5, what)  # the last step of an epoch, when the sampler has begun the next
    step = trainer._guard.on_step_begin
    trainer._guard.on_step_begin = lambda *args, **kwargs: before.update(weights_of(trainer)) or step(*args, **kwargs)
    with pytest.raises(NonFiniteLossError) as info:
        trainer.train(resume_from_checkpoint=trainer.find_checkpoint())
    assert isinstance(info.value, ForgeError) and isinstance(info.value, ArithmeticError)
    text = str(info.value)
    assert "At step 5, " in text and f"The last good checkpoint is {tmp_path / 'checkpoint-3'};" in text
    batch = [rows for rows in seen if len(rows) == 12][1 if resumes else 4]
    assert f"items {', '.join(repr(f'i{row}') for row in batch)} (process 0)" in text
    assert ("the loss is finite, but the norm of its gradient is nan" in text) == (what == "gradient")
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(trainer).items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def stop_as_process(folder):
    torch.set_num_threads(1)
    trainer = item_tokenizer_trainer(folder / "run", num_train_epochs=4, **SAVES)
    rank = trainer.args.process_index
    spoil(trainer, 8, "nan" if rank == 1 else "1")
    seen, read = [], trainer.train_dataset.__getitems__
    trainer.train_dataset.__getitems__ = lambda rows: seen.append([int(row) for row in rows]) or read(rows)
    try:
        trainer.train(resume_from_checkpoint=trainer.find_checkpoint())
    except NonFiniteLossError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def test_all_processes_stop_for_one(tmp_path):
    for _ in range(2):  # the second time from a checkpoint, in the third of the epochs of 3 steps
        debug_launcher(stop_as_process, args=(tmp_path,), num_processes=2)
        texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
        batches = [rows for rows in json.loads((tmp_path / "1.json").read_text()) if len(rows) == 12]
        assert texts[0] == texts[1] and "At step 8, the loss is nan on items 'i" in texts[0]
        assert any(f"items {', '.join(repr(f'i{row}') for row in rows)} (process 1)" in texts[0] for rows in batches)
        assert f"The last good checkpoint is {tmp_path}/run/checkpoint-6;" in texts[0]
    assert len(batches) <= 3


@pytest.mark.parametrize("form", ["users", "rows", "stream"])
def test_the_batch_is_named(form, ring_catalog, ring_splits, tmp_path):
    train, catalog = ring_splits["train"], ring_catalog
    if form != "users":
        texts = [catalog.layout.to_text(catalog.codes_for(items)) for items in train["items"]]
        train = Dataset.from_dict({"user": ["".join(t[:-1]) for t in texts], "answer": [t[-1] for t in texts]})
    torch.manual_seed(0)
    model, tokenizer = create_retriever("qwen2-small", catalog, **TINY)
    args = RetrievalTrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, shuffle_buffer_size=0, **COMMON,
    )  # fmt: skip
    trainer = RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer,
        train_dataset=train.to_iterable_dataset() if form == "stream" else train,
    )  # fmt: skip
    seen, collate = [], trainer.data_collator
    trainer.data_collator = lambda batch: seen.append(batch) or collate(batch)
    compute, calls = trainer.compute_loss, []

    def compute_loss(*args, **kwargs):  # the second half of the second step
        calls.append(1)
        return compute(*args, **kwargs) * (float("nan") if len(calls) == 4 else 1.0)

    trainer.compute_loss = compute_loss
    with pytest.raises(NonFiniteLossError, match="At step 2, the loss is nan on .*There is no checkpoint yet") as info:
        trainer.train()
    batch = seen[3]
    if form == "users":
        assert f"users {', '.join(repr(window['user_id']) for window in batch)} (process 0)" in str(info.value)
    elif form == "rows":
        numbers = info.value.args[0].partition("rows ")[2].partition(" (process")[0].split(", ")
        for number, (input_ids, _) in zip(map(int, numbers), batch, strict=True):
            expected = tokenizer(train[number - 1]["user"] + train[number - 1]["answer"], add_special_tokens=False)
            assert torch.equal(input_ids[1:-1], torch.tensor(expected.input_ids))
    else:
        assert repr(train[12]["user"] + train[12]["answer"])[1:-1] in str(info.value)


def test_a_collapsed_codebook_warns_once(tmp_path):
    def train(**changes):
        trainer = item_tokenizer_trainer(tmp_path, (8, 12), logging_steps=1, save_strategy="no", **changes)
        trainer.initialize_from_data()
        if changes.pop("collapses", True):
            trainer.model.set_codebook(1, 1e3 + torch.arange(12.0)[:, None].expand(12, 4))  # the first is the nearest
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.train()
        return [str(warning.message) for warning in caught if "min_codebook_utilization" in str(warning.message)]

    (text,) = train()
    # Of 12 codes, 48 items are waited for: 4 batches, or the 5 of the whole epoch.
    assert "Level 1 used 1 of its 12 codes over the last 48 items" in text and "`dead_code_threshold=0.25`" in text
    assert len(train(warmup_steps=4, num_train_epochs=2)) == 1
    assert train(warmup_steps=7, num_train_epochs=2) == []  # too few items after the warm-up
    assert train(min_codebook_utilization=0) == [] and train(min_codebook_utilization=0.08) == []
    with pytest.raises(ValueError, match=r"`min_codebook_utilization` is a share and must be in \[0, 1\], got 20"):
        RQVAETrainingArguments(str(tmp_path), min_codebook_utilization=20)


def test_healthy_codebooks_do_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        item_tokenizer_trainer(tmp_path, logging_steps=1, save_strategy="no", num_train_epochs=6).train()


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_metrics_under_bf16_are_within_the_noise_of_seeds(device, tmp_path):
    market = SyntheticMarket(num_items=150, num_users=300)
    codes = [[row // 15, row % 15] for row in range(market.num_items)]
    catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 15], on_collision="keep")
    splits = leave_one_out(market.sequences)

    def score(seed, bf16):
        torch.manual_seed(seed)
        model, tokenizer = create_retriever("qwen2-small", catalog, **TINY | {"hidden_size": 32})
        args = RetrievalTrainingArguments(
            str(tmp_path), num_train_epochs=4, per_device_train_batch_size=32, learning_rate=1e-2, seed=seed,
            eval_num_beams=10, eval_strategy="no", save_strategy="no", load_best_model_at_end=False, bf16=bf16,
            **COMMON | {"use_cpu": device == "cpu"},
        )  # fmt: skip
        trainer = RetrievalTrainer(
            model, args, catalog=catalog, processing_class=tokenizer, train_dataset=splits["train"],
            eval_dataset=splits["validation"],
        )  # fmt: skip
        trainer.train()
        return trainer.evaluate()["eval_ndcg@10"]

    whole, half = (torch.tensor([score(seed, bf16) for seed in range(3)]) for bf16 in (False, True))
    # The means of three differ by less than two standard errors of such a difference.
    assert (whole.mean() - half.mean()).abs() < 2 * whole.std() * (2 / 3) ** 0.5, (whole, half)
