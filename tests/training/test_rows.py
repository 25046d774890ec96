# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""RetrievalTrainer on FORGE's rows of text: from a checkpoint by name, at hand or streamed, scored and resumed."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from forge_hf.data import MalformedRows
from forge_hf.errors import InvalidSequencesError, MalformedRowsError
from forge_hf.evaluation import RowEvaluator
from forge_hf.generation.retrieval import rank_rows
from forge_hf.semantic_ids import SemanticIdCatalog
from forge_hf.tokenization import PromptEncoder
from forge_hf.training import PromptCollator, RetrievalTrainer, RetrievalTrainingArguments, add_lora, create_retriever


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUM_ITEMS = 24


@pytest.fixture(scope="module")
def catalog():
    codes = [[item // 12, item % 12, (5 * item) % 6] for item in range(NUM_ITEMS)]
    names = [f"b{item}Z" for item in range(NUM_ITEMS)]
    return SemanticIdCatalog.from_codes(names, codes, codebook_sizes=[2, 12, 6], on_collision="keep")


@pytest.fixture(scope="module")
def rows(catalog):
    """Users who walk along a ring of items, as AL-GR has its training rows."""
    texts = catalog.layout.to_text(catalog.codes)
    random = np.random.default_rng(0)
    made = []
    for number in range(96):
        length = int(random.integers(2, 6))
        items = [(number + step) % NUM_ITEMS for step in range(length + 1)]
        user = f"历史：{''.join(texts[item] for item in items[:-1])}，请预测"
        made.append({"system": "Recommend.", "user": user, "answer": texts[items[-1]], "item": f"b{items[-1]}Z"})
    return made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny checkpoints of the architectures and tokenizers that FORGE starts from."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["历史：，请预测 system user assistant"] * 3,
        trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False),
    )
    vocab = {**backend.get_vocab(), "<|endoftext|>": backend.get_vocab_size()}
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, chat_template=TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder / "qwen")
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 5, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "qwen")

    backend = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("史", -3.0)], 2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "t5")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    return {name: str(folder / name) for name in ("qwen", "t5")}


@pytest.fixture(scope="module")
def csv_file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("al_gr") / "s1_tiny.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["system", "user", "answer"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def stream(path):
    return load_dataset("csv", data_files=path, split="train", streaming=True)


def arguments(folder, **changes):
    settings = {
        "max_steps": 5, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "lr_scheduler_type": "constant",
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "logging_steps": 5,
        "eval_num_beams": 10, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return RetrievalTrainingArguments(output_dir=str(folder), **settings | changes)


@pytest.mark.parametrize("name", ["qwen", "t5"])
def test_a_stream_is_learned_and_its_answers_found(name, checkpoints, catalog, rows, csv_file, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = create_retriever(checkpoints[name], catalog)
    answers = {"user": [row["user"] for row in rows], "answer": [row["item"] for row in rows]}
    answers["system"] = ["Recommend."] * len(rows)
    args = arguments(tmp_path, max_steps=120, eval_ks=[1, 10])
    trainer = RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer, train_dataset=stream(csv_file),
        eval_dataset=Dataset.from_dict(answers),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.1 * losses[0]
    # Scored by item ids, as in test rows, and by semantic IDs, as in training rows.
    by_item, by_sid = trainer.evaluate(), trainer.evaluate(Dataset.from_list(rows))
    assert by_item == pytest.approx(by_sid) and by_item["eval_recall@1"] > 0.9
    trainer.save_model()
    assert "rows of text" in json.loads((tmp_path / "run.json").read_text())["metrics"][0]["protocol"]


def test_the_prompt_of_training_is_that_of_generation(checkpoints, catalog, rows):
    model, tokenizer = create_retriever(checkpoints["qwen"], catalog)
    encoder = PromptEncoder(tokenizer, catalog.layout, is_encoder_decoder=False)
    columns = {key: [row[key] for row in rows[:4]] for key in rows[0]}
    for prompt, (input_ids, labels) in zip(
        encoder.encode_prompts(columns), encoder.encode_examples(columns), strict=True
    ):
        assert torch.equal(input_ids[: len(prompt)], prompt)
        assert (labels[: len(prompt)] == -100).all() and (labels[len(prompt) :][:3] >= 0).all()
    # Of the first item, the search gives what the model itself gives after the whole prompt.
    ranking = rank_rows(model, tokenizer, catalog, columns, num_items=1, num_beams=NUM_ITEMS)
    ids = encoder.encode_prompts(columns)[0]
    codes = tokenizer(catalog.layout.to_text(catalog.codes), add_special_tokens=False).input_ids
    with torch.no_grad():
        scores = []
        for code in codes:
            whole = torch.cat([ids, torch.tensor(code)])[None]
            logits = model.eval()(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            scores.append(sum(logits[place, token] for place, token in enumerate(code)))
    # The search normalises over all of the vocabulary, as the model does.
    assert ranking.scores[0, 0] == pytest.approx(max(scores).item(), abs=1e-4)


@pytest.mark.parametrize("name", ["qwen", "t5"])
def test_the_loss_is_the_mean_over_labels_however_batches_are_divided(name, checkpoints, catalog, csv_file, tmp_path):
    gradients = []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        model, tokenizer = create_retriever(checkpoints[name], catalog)
        args = arguments(
            tmp_path, max_steps=1, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
            optim="sgd", learning_rate=1.0, max_grad_norm=0.0, shuffle_buffer_size=0, logging_steps=1,
        )  # fmt: skip
        trainer = RetrievalTrainer(
            model, args, catalog=catalog, processing_class=tokenizer, train_dataset=stream(csv_file)
        )
        before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
        if not gradients:  # against the model's own logits of the whole of each row
            encoder = PromptEncoder(tokenizer, catalog.layout, model.config.is_encoder_decoder)
            first = next(iter(stream(csv_file).with_format(None).iter(16)))
            total, count = 0.0, 0
            for input_ids, labels in encoder.encode_examples(first):
                with torch.no_grad():
                    if name == "t5":
                        logits = model(input_ids=input_ids[None], labels=labels[None]).logits[0]
                    else:
                        logits, labels = model(input_ids[None]).logits[0, :-1], labels[1:]
                kept = labels >= 0
                total += torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum").item()
                count += int(kept.sum())
            assert count == 16 * 4
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, rel=1e-4)
        gradients.append({key: before[key] - weight.detach() for key, weight in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-5)


def test_a_stream_resumes_in_its_midst(checkpoints, catalog, csv_file, tmp_path):
    def train(folder, resume=None, **changes):
        torch.manual_seed(0)
        model, tokenizer = create_retriever(checkpoints["qwen"], catalog)
        args = arguments(folder, save_strategy="steps", save_steps=4, shuffle_buffer_size=30, **changes)
        trainer = RetrievalTrainer(
            model, args, catalog=catalog, processing_class=tokenizer, train_dataset=stream(csv_file)
        )
        trainer.train(resume_from_checkpoint=resume)
        return load_file(folder / f"checkpoint-{args.max_steps}" / "model.safetensors")

    whole = train(tmp_path / "whole", max_steps=8)  # 128 rows: into the second epoch
    train(tmp_path / "parts", max_steps=4)
    # Of a run that was to end there: its path must be given.
    parts = train(tmp_path / "parts", resume=str(tmp_path / "parts" / "checkpoint-4"), max_steps=8)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_rows_at_hand_and_lora(checkpoints, catalog, rows, tmp_path):
    model, tokenizer = create_retriever(checkpoints["qwen"], catalog)
    model = add_lora(model, tokenizer, catalog, rank=4)
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=2, bf16=True)
    trainer = RetrievalTrainer(
        model, args, catalog=catalog, processing_class=tokenizer, train_dataset=Dataset.from_list(rows)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["logits_to_keep"] == 7  # the codes, <|im_end|>, newline, the end, and what the first is told from
    trainer.train()
    assert trainer.state.global_step == 12 and trainer.describe_data()["num_rows"] == 96


def test_what_is_refused(checkpoints, catalog, rows, csv_file, tmp_path):
    model, tokenizer = create_retriever(checkpoints["t5"], catalog)
    made = {"model": model, "catalog": catalog, "processing_class": tokenizer}
    with pytest.raises(ValueError, match="`max_steps`"):
        RetrievalTrainer(args=arguments(tmp_path, max_steps=-1), train_dataset=stream(csv_file), **made)
    with pytest.raises(InvalidSequencesError, match="take some rows"):
        RetrievalTrainer(args=arguments(tmp_path), eval_dataset=stream(csv_file), **made)
    with pytest.raises(MalformedRowsError, match="1 of 2 rows .* row 2: no `answer`"):
        RowEvaluator(Dataset.from_list([rows[0], {**rows[1], "answer": " ;"}]), catalog)
    with pytest.raises(ValueError, match="`num_beams`"):
        RowEvaluator(Dataset.from_list(rows), catalog, ks=(100,))


def test_the_example_streams_rows(checkpoints, catalog, rows, csv_file, tmp_path, monkeypatch):
    catalog.save_pretrained(tmp_path / "catalog")
    test_rows = [{"instruction": row["system"], "input": row["user"], "output": row["item"]} for row in rows[:20]]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, test_rows)))
    options = {
        "recipe": "forge-qwen2.5", "model": checkpoints["qwen"], "catalog": tmp_path / "catalog", "rows": csv_file,
        "eval_rows": tmp_path / "test.jsonl", "output_dir": tmp_path / "run", "max_steps": 4, "batch_size": 8,
        "evals": 2, "num_beams": 10,
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["train_gr.py", "--streaming", "--no-bf16", *arguments])
    runpy.run_path(str(Path(__file__).parents[2] / "examples/train_gr.py"), run_name="__main__")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["training"]["global_step"] == 4 and facts["training"]["learning_rate"] == 5e-5
    assert facts["metrics"][0]["num_examples"] == 20


def test_true_items_that_the_catalog_lacks_are_not_found(checkpoints, catalog, rows):
    model, tokenizer = create_retriever(checkpoints["t5"], catalog)
    other = catalog.layout.to_text([1, 0, 1])
    answers = ["b1Z;b2Z", "b1Z;nobody", other, catalog.layout.to_text(catalog.codes[3])]
    dataset = Dataset.from_list([{"user": rows[0]["user"], "answer": answer} for answer in answers])
    scores = RowEvaluator(dataset, catalog, ks=(NUM_ITEMS,), show_progress=False)(model, tokenizer)
    assert scores[f"recall@{NUM_ITEMS}"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_malformed_rows_are_left_out_of_an_evaluation_before_it_begins(checkpoints, catalog, rows):
    model, tokenizer = create_retriever(checkpoints["t5"], catalog)
    good = [{"user": row["user"], "answer": row["item"]} for row in rows[:4]]
    bad = [{"user": "no codes", "answer": "a"}, {"user": "", "answer": ""}]
    with pytest.warns(UserWarning, match="2 of 6 rows .* row 2: .*; row 4: "):
        dataset = Dataset.from_list([good[0], bad[0], good[1], bad[1], *good[2:]])
        evaluator = RowEvaluator(
            dataset, catalog, ks=(NUM_ITEMS,), show_progress=False, malformed=MalformedRows(max_rate=0.5)
        )
    expected = RowEvaluator(Dataset.from_list(good), catalog, ks=(NUM_ITEMS,), show_progress=False)
    assert evaluator(model, tokenizer) == expected(model, tokenizer)


def test_batches():
    examples = [
        (torch.tensor([5, 6, 7, 8]), torch.tensor([-100, -100, 7, 8])),
        (torch.tensor([9, 4]), torch.tensor([-100, 4])),
    ]
    batch = PromptCollator()(examples)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 4]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]] and batch["logits_to_keep"] == 3
    examples = [(torch.tensor([5, 6, 1]), torch.tensor([7, 8, 1])), (torch.tensor([9, 1]), torch.tensor([4, 1]))]
    batch = PromptCollator(pad_token_id=0, decoder_start_token_id=3)(examples)
    assert batch["input_ids"].tolist() == [[5, 6, 1], [9, 1, 0]] and "logits_to_keep" not in batch
    assert batch["labels"].tolist() == [[7, 8, 1], [4, 1, -100]]
    assert batch["decoder_input_ids"].tolist() == [[3, 7, 8], [3, 4, 1]]
