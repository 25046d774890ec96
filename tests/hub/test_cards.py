# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import ast
import copy
import importlib.util
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from forge_hf.hub import FolderFacts, describe_data_files, is_generated, render_card
from forge_hf.hub.data_files import data_configs, size_category


ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "format_version": 1,
    "task": "generative-retrieval",
    "data": {"name": "forge/beauty", "num_items": 12101, "num_users": 22363, "num_interactions": 153776},
    "training": {
        "num_parameters": 1314432,
        "num_trainable_parameters": 4321,
        "num_train_epochs": 16.0,
        "learning_rate": 0.00123456789,
        "lr_scheduler_type": "cosine",
        "bf16": True,
        "seed": 1234,
        "seconds": 2340,
        "global_step": 11264,
        "hardware": "1 thread(s) of AMD EPYC",
    },
    "metrics": [
        {
            "split": "test",
            "protocol": "leave-one-out, full ranking",
            "num_examples": 22363,
            "num_seeds": 2,
            "values": {
                "recall@10": 0.06471,
                "ndcg@10": 0.03621,
                "unmasked_recall@10": 0.05921,
                "invalid_rate": 0.0005,
            },
            "std": {"recall@10": 0.00023},
            "baselines": {"popularity": {"recall@10": 0.01154, "ndcg@10": 0.00546}},
        },
        {"split": "validation", "values": {"ndcg@10": 0.04123}},
    ],
    "semantic_ids": {
        "num_items": 12101,
        "codebook_sizes": [256, 128, 19],
        "on_collision": "suffix",
        "fingerprint": "41c3f7e8dac3bb9d165e9e8ab5a2cc50",
        "collision_rate": 0.0585,
        "utilization": [0.76953125, 1.0],
        "perplexity": [82.716, 110.04],
        "gini": 0.0512,
    },
    "versions": {"forge-hf": "0.1.0", "torch": "2.13.0"},
}
FILES = {
    "train_data/s1.csv": {"num_rows": 5000, "columns": ["system", "user", "answer"]},
    "test_data/s1_test.csv": {"num_rows": 10, "columns": ["system", "user", "answer"]},
    "item_info/sid.csv": {"num_rows": 7, "columns": ["item_id", "codebook_lv1"]},
}
RQVAE = {"model_type": "rqvae", "input_dim": 384, "codebook_sizes": [256, 128], "quantization_loss": "cumulative"}
LORA = {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "r": 8, "task_type": "CAUSAL_LM"}


def facts_of(kind: str, run: dict) -> FolderFacts:
    own = {
        "item_tokenizer": {"config": RQVAE},
        "retriever": {"config": {"model_type": "qwen2"}},
        "adapter": {"adapter_config": LORA},
        "catalog": {},
        "dataset": {"files": list(FILES)},
    }
    if kind == "dataset" and run:
        run = run | {"files": FILES}
    return FolderFacts(kind, run=copy.deepcopy(run), **copy.deepcopy(own[kind]))


KINDS = ["item_tokenizer", "retriever", "adapter", "catalog", "dataset"]
CARDS = {kind: render_card(facts_of(kind, RUN), "me/some-name") for kind in KINDS}
BARE = {kind: render_card(facts_of(kind, {}), "me/some-name") for kind in KINDS}


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def table(card: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with a cell, read by its pipes."""
    lines = card[card.index(f"\n| {first} |") + 1 :].split("\n\n")[0].split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("cards", [CARDS, BARE], ids=["all facts", "no facts"])
@pytest.mark.parametrize("kind", KINDS)
def test_front_matter_is_what_huggingface_hub_reads_and_writes(kind, cards):
    card = (DatasetCard if kind == "dataset" else ModelCard)(cards[kind])
    assert card.data.to_dict() == front_matter(cards[kind])
    assert card.text.startswith("\n# some-name\n")
    assert {"semantic-ids", "recommendation"} <= set(card.data.tags)


def test_front_matter_of_each_kind():
    front = {kind: front_matter(CARDS[kind]) for kind in KINDS}
    names = ("library_name", "pipeline_tag")
    assert {kind: tuple(front[kind].get(name) for name in names) for kind in KINDS} == {
        "item_tokenizer": ("forge_hf", "feature-extraction"),
        "retriever": ("transformers", "text-generation"),
        "adapter": ("peft", "text-generation"),
        "catalog": ("forge_hf", None),
        "dataset": (None, None),
    }
    assert {"rq-vae", "rqvae"} <= set(front["item_tokenizer"]["tags"]) and "qwen2" in front["retriever"]["tags"]
    assert all(front[kind]["datasets"] == ["forge/beauty"] for kind in KINDS if kind != "dataset")
    assert front["adapter"]["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert front["adapter"]["base_model_relation"] == "adapter"
    assert front["dataset"]["size_categories"] == ["1K<n<10K"] and front["dataset"]["pretty_name"] == "some name"
    assert front["dataset"]["task_categories"] == ["text-generation"]
    assert front["dataset"]["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "train_data/s1.csv"},
                {"split": "test", "path": "test_data/s1_test.csv"},
            ],
        },
        {"config_name": "item_info", "data_files": [{"split": "train", "path": "item_info/sid.csv"}]},
    ]


@pytest.mark.parametrize(
    "facts",
    [
        FolderFacts("retriever", config={"model_type": "t5", "is_encoder_decoder": True}),
        FolderFacts("adapter", adapter_config=LORA | {"task_type": "SEQ_2_SEQ_LM"}),
    ],
    ids=["t5", "adapter of t5"],
)
def test_encoder_decoders_are_named_as_such(facts):
    card = render_card(facts, "me/t5")
    assert front_matter(card)["pipeline_tag"] == "text2text-generation"
    assert "FORGE" not in card, "the decoder-only part of the statement"


def test_results_are_in_the_model_index():
    results = ModelCard(CARDS["retriever"]).data.eval_results
    got = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    wanted = {(entry["split"], name): v for entry in RUN["metrics"] for name, v in entry["values"].items()}
    assert got == {key: round(value, 4) for key, value in wanted.items()}
    assert {(result.dataset_type, result.task_type) for result in results} == {("forge/beauty", "recommendation")}


def test_numbers_in_the_text_are_those_of_the_facts():
    card = CARDS["retriever"]
    assert table(card, "Metric")[2:] == [["Recall@10", "0.0647 ± 0.0002", "0.0592"]]
    assert "**NDCG@10:** 0.0362" in card and "**Invalid rate:** 0.0005" in card
    assert table(card, "")[2:] == [
        ["popularity", "0.0115", "0.0055"],
        ["**some-name**", "0.0647 ± 0.0002", "0.0362"],
    ]
    assert "Leave-one-out, full ranking. Measured on 22,363 histories of the test split. Mean ± standard" in card
    assert "2 seeds: a report, not a claim" in card
    assert table(card, "Level")[2:] == [["1", "256", "77 %", "82.7"], ["2", "128", "100 %", "110.0"]]
    for fact in ("12,101", "256, 128, 19", "5.85 %", "0.0512", "`41c3f7e8dac3bb9d165e9e8ab5a2cc50`"):
        assert fact in card.split("## Semantic IDs")[1].split("## Results")[0]
    training = card.split("## Training")[1]
    assert "12,101 items, 22,363 users, 153,776 interactions" in training
    assert "1,314,432 parameters (4,321 of them trained), 11,264 steps, on 1 thread(s) of AMD EPYC" in training
    assert dict(table(training, "Argument")[2:]) == {
        "`num_train_epochs`": "16",
        "`learning_rate`": "0.00123456789",
        "`lr_scheduler_type`": "cosine",
        "`bf16`": "True",
        "`seed`": "1234",
    }
    assert "forge-hf 0.1.0, torch 2.13.0" in training


@pytest.mark.parametrize(
    ("loss", "paper", "other"), [("per_level", "2305.05065", "2509.20904"), ("cumulative", "2509.20904", "2305.05065")]
)
def test_an_item_tokenizer_names_the_paper_of_its_loss(loss, paper, other):
    card = render_card(FolderFacts("item_tokenizer", config=RQVAE | {"quantization_loss": loss}), "me/rqvae")
    assert f"https://huggingface.co/papers/{paper}" in card and other not in card


def test_what_was_measured_of_a_catalog_is_told():
    measured = RUN["semantic_ids"] | {
        "on_collision": "knn",
        "resolved_collision_rate": 0.0312,
        "max_load": 1234,
        "resolved_max_load": 5,
        "resolved_gini": 0.0123,
        "embedding_hit_rate": {"20": 0.0736, "1000": 0.3029},
        "prefix_purity": [0.779, 0.945],
        "prefix_purity_by_chance": [0.333, 0.762],
        "random_pairs_sharing_prefix": [0.0181, 0.000171],
    }
    card = render_card(facts_of("catalog", {"semantic_ids": measured}), "me/catalog")
    for line in (
        "5.85 %, 1 - (distinct semantic IDs) / (items); 3.12 % after items were moved",
        "**Most items of one semantic ID:** 1,234; 5 after items were moved",
        "were moved to the nearest codes of the last level with room, as in [FORGE]",
        "**Gini coefficient:** 0.0512, of how many items each semantic ID in use has; 0 is even; 0.0123 after",
        "**Embedding hit rate:** 0.0736 at K = 20, 0.3029 at K = 1,000, the share",
        "Commonest category: the share",
    ):
        assert line in card, line
    assert table(card, "First codes") == [
        ["First codes", "Commonest category", "by chance", "Random pairs share them"],
        ["---"] * 4,
        ["1", "77.9 %", "33.3 %", "1.81 %"],
        ["2", "94.5 %", "76.2 %", "0.0171 %"],
    ]
    suffixed = render_card(facts_of("catalog", {"semantic_ids": measured | {"on_collision": "suffix"}}), "me/catalog")
    assert "1,234, before the last level was added" in suffixed and "were moved" not in suffixed


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_of_facts_that_are_missing(kind):
    partial = []
    for section, value in RUN.items():  # each alone, and each alone with one fact less
        partial.append({section: value})
        if isinstance(value, dict):
            partial += [{section: {k: v for k, v in value.items() if k != key}} for key in value]
    for card in [BARE[kind], *(render_card(facts_of(kind, run), "me/some-name") for run in partial)]:
        assert not re.search(r"N/A|None|Undefined|nan\b|\[\]|\{\}|\{\{|More Information", card)
        assert "\n\n\n" not in card and not re.search(r"\(\)|  \w|[ :]\.\s|,,| ,|: *\n\n#", card.split("```")[2])
        assert not re.search(r"\n(#+) .*\n\n(#{1,2} |<!--)", card), "a heading with nothing under it"
    assert not {"Results", "Training"} & set(re.findall("^## (.*)", BARE[kind], re.MULTILINE))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_well_formed(kind):
    run = copy.deepcopy(RUN)
    run["training"]["a|b"] = "two\nlines | and a pipe"
    run["metrics"][0]["baselines"]["new\nline|"] = {"recall@10": 0.1, "ndcg@10": 0.2}
    lines = render_card(facts_of(kind, run), "me/some-name").split("\n")
    blocks, block = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            blocks.append(block)
            block = []
    assert blocks
    for block in blocks:
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in block} == {block[1].count("---") + 1}
        assert all(line.endswith("|") for line in block)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cards", [CARDS, BARE], ids=["all facts", "no facts"])
def test_snippets_compile_and_are_short(kind, cards):
    (snippet,) = snippets(cards[kind])
    ast.parse(snippet)
    assert len(snippet.splitlines()) <= 10 and '"me/some-name"' in snippet


# --- What must not get into a card.


@pytest.mark.parametrize(
    "secret",
    [
        "/home/alice/models/base",
        "~/models/base",
        "./models/base",
        "../base",
        "C:\\Users\\alice\\base",
        "\\\\server\\alice",
        "file:///home/alice/base",
        "trained at /home/alice/run for a day",
        "hf_" + "aB3" * 11,
        "https://user:hf_" + "aB3" * 11 + "@huggingface.co/alice/x",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_paths_and_tokens_are_left_out(kind, secret):
    run = copy.deepcopy(RUN) | {"notes": [secret, "A note that stays"]}
    run["data"]["name"] = run["training"]["model"] = run["training"]["hardware"] = secret
    run["metrics"][0]["protocol"] = run["versions"]["torch"] = run["semantic_ids"]["fingerprint"] = secret
    run["training"]["layers"] = [secret]
    facts = facts_of(kind, run)
    facts.config |= {"_name_or_path": secret, "model_type": secret}
    facts.adapter_config |= {"base_model_name_or_path": secret}
    card = render_card(facts, "me/some-name")
    assert secret not in card and "alice" not in card and "hf_aB3" not in card
    assert "A note that stays." in card


def test_what_the_trainer_knows_of_the_machine_is_left_out():
    private = {
        "output_dir": "runs",
        "logging_dir": "logs",
        "hub_token": "abc",
        "hub_model_id": "a/b",
        "run_name": "alice",
    }
    run = RUN | {"training": RUN["training"] | private}
    assert render_card(facts_of("retriever", run), "me/some-name") == CARDS["retriever"]


@pytest.mark.parametrize("base", ["checkpoint", "runs/gr/final", "gr/checkpoint-500", "src/forge_hf", ".cache/base"])
def test_a_base_model_or_dataset_that_is_a_folder_is_not_named(base, monkeypatch):
    monkeypatch.chdir(ROOT)  # where src/forge_hf lies
    facts = FolderFacts("adapter", adapter_config=LORA | {"base_model_name_or_path": base})
    if "/" in base:
        facts.run = {"data": {"name": base}}
    card = render_card(facts, "me/some-name")
    assert base not in card and not {"base_model", "datasets"} & set(front_matter(card))


def test_a_token_in_the_metadata_is_refused():
    with pytest.raises(ValueError, match="`metadata` holds a token"):
        render_card(facts_of("catalog", RUN), "me/x", metadata={"extra": ["hf_" + "x" * 34]})
    with pytest.raises(ValueError):
        render_card(facts_of("catalog", RUN), "/home/alice/catalog")


def test_metadata_goes_over_what_the_facts_give():
    metadata = {"license": "mit", "library_name": "mine", "tags": ["beauty"], "datasets": None, "language": ["en"]}
    front = front_matter(render_card(facts_of("retriever", RUN), "me/x", metadata=metadata))
    assert front["license"] == "mit" and front["library_name"] == "mine" and front["language"] == ["en"]
    assert front["tags"][-1] == "beauty" and "semantic-ids" in front["tags"] and "datasets" not in front
    dataset = front_matter(render_card(facts_of("dataset", RUN), "me/x", metadata={"pretty_name": "X"}))
    assert dataset["pretty_name"] == "X"


# --- Whose card it is.


@pytest.mark.parametrize("kind", KINDS)
def test_a_rendered_card_is_generated_whatever_its_line_endings(kind):
    card = CARDS[kind]
    for text in (card, card.rstrip("\n"), card + "\n\n", card.replace("\n", "\r\n"), card.replace("\n", "\r")):
        assert is_generated(text)


@given(st.data())
def test_a_card_that_was_edited_is_not_generated(data):
    card = CARDS[data.draw(st.sampled_from(KINDS))]
    start = data.draw(st.integers(0, len(card)))
    stop = data.draw(st.integers(start, min(len(card), start + 30)))
    edited = card[:start] + data.draw(st.text(max_size=20)) + card[stop:]
    without_newlines = str.maketrans("", "", "\r\n")
    if edited.translate(without_newlines) != card.translate(without_newlines):
        assert not is_generated(edited)


@given(st.text())
def test_a_text_of_somebody_is_not_generated(text):
    assert not is_generated(text)
    assert not is_generated(CARDS["catalog"] + text + "x")


def test_a_marker_of_another_card_does_not_fit():
    marker = CARDS["catalog"].rstrip("\n").rsplit("\n", 1)[1]
    assert not is_generated(f"# Mine\n\n{marker}\n") and not is_generated(marker)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_untouched_placeholders_are_generated(tmp_path):
    config = Qwen2Config(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1,
    )  # fmt: skip
    get_peft_model(Qwen2ForCausalLM(config), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    of_peft = (tmp_path / "README.md").read_text(encoding="utf-8")
    sentence = (  # transformers.utils.hub.create_and_tag_model_card, which asks the Hub first
        "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
        "automatically generated."
    )
    of_transformers = str(
        ModelCard.from_template(ModelCardData(tags=[], library_name="transformers"), model_description=sentence)
    )
    for card in (of_peft, of_transformers, str(ModelCard.from_template(ModelCardData()))):
        assert "# Model Card for Model ID" in card
        assert is_generated(card) and is_generated(card.replace("\n", "\r\n"))
        assert not is_generated(card.replace("[More Information Needed]", "By me", 1))
        assert not is_generated(card + "\nMine\n")
        assert not is_generated(card.replace("---\n", "---\nlicense: mit\n", 1))
        assert not is_generated(card.replace("---\n", "---\n[\n", 1))
    assert is_generated(str(DatasetCard.from_template(DatasetCardData())))
    assert not is_generated(str(ModelCard.from_template(ModelCardData(), model_id="mine")))


# --- Data files.


def write_data(folder: Path) -> list[str]:
    """Files of the shapes of AL-GR, with what makes CSV hard."""
    for name in ("train_data", "test_data", "item_info", "data"):
        (folder / name).mkdir()
    rows = "".join(f'{i},"two\nlines, and a ""quote""",{i}\n' for i in range(200))
    (folder / "train_data/s1.csv").write_text("system,user,answer\n" + rows)
    (folder / "test_data/s1_test.csv").write_text("system,user,answer\r\na,b,c\r\n", newline="")
    (folder / "item_info/sid.csv").write_bytes("\ufeffitem_id\tcodebook_lv1\n1\t7\nx\t\n".encode())
    (folder / "behavior.jsonl").write_text('{"user": 1, "items": [1, 2]}\n\n{"user": 2, "time": 3}\n')
    for shard in range(2):
        columns = {"item_id": range(5 + shard), "embedding": [[0.5, 1.0]] * (5 + shard)}
        pa.parquet.write_table(pa.table(columns), folder / f"data/embeddings-0000{shard}-of-00002.parquet")
    (folder / "empty.csv").write_text("")
    (folder / "LICENSE").write_text("mine")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_data_files_are_described(tmp_path):
    files = write_data(tmp_path)
    assert describe_data_files(tmp_path, files) == {
        "behavior.jsonl": {"num_rows": 2, "columns": ["user", "items", "time"]},
        "data/embeddings-00000-of-00002.parquet": {"num_rows": 5, "columns": ["item_id", "embedding"]},
        "data/embeddings-00001-of-00002.parquet": {"num_rows": 6, "columns": ["item_id", "embedding"]},
        "empty.csv": {"num_rows": 0, "columns": []},
        "item_info/sid.csv": {"num_rows": 2, "columns": ["item_id", "codebook_lv1"], "sep": "\t"},
        "test_data/s1_test.csv": {"num_rows": 1, "columns": ["system", "user", "answer"]},
        "train_data/s1.csv": {"num_rows": 200, "columns": ["system", "user", "answer"]},
    }


def test_load_dataset_reads_what_the_card_says(tmp_path):
    files = write_data(tmp_path)
    described = describe_data_files(tmp_path, files)
    card = render_card(FolderFacts("dataset", run={"files": described}, files=files), "me/data")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    read = {}
    for config in front_matter(card)["configs"]:
        loaded = datasets.load_dataset(str(tmp_path), config["config_name"], streaming=True)
        read[config["config_name"]] = {split: list(rows) for split, rows in loaded.items()}
    assert {split: len(rows) for split, rows in read["default"].items()} == {"train": 200, "test": 1}
    assert read["default"]["train"][7] == {"system": 7, "user": 'two\nlines, and a "quote"', "answer": 7}
    assert read["item_info"] == {
        "train": [{"item_id": "1", "codebook_lv1": 7}, {"item_id": "x", "codebook_lv1": None}]
    }
    assert read.keys() == {"default", "item_info"}, "`load_dataset` reads one format from a repository"
    (source,) = snippets(card)
    exec(source.replace('"me/data"', repr(str(tmp_path))).replace("print(", "row = ("), scope := {})
    assert scope["row"] == read["default"]["train"][0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR0"),
        ("a.csv", b"a,b\n1,2,3\n"),
        ("a.jsonl", b"{"),
        ("a.jsonl", b"[1]"),
        ("a.csv", b"\xff\xfe"),
    ],
)
def test_data_files_that_are_not_what_they_say_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"`files` names {name}"):
        describe_data_files(tmp_path, [name])


@pytest.mark.parametrize(
    "suffixes", [(".tsv", ".csv"), (".csv", ".tsv"), (".parquet", ".parquet"), (".jsonl", ".csv")]
)
def test_load_dataset_reads_configs_of_mixed_separators_and_shards(tmp_path, suffixes):
    tables = [{"a": [1, 2], "b": [3, 4]}, {"c": [5], "d": [6]}]
    for name, suffix, columns in zip(["x", "y"], suffixes, tables, strict=True):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        sep = "\t" if suffix == ".tsv" else ","
        if suffix == ".parquet":
            for shard, row in enumerate(rows):
                parquet = tmp_path / f"{name}-0000{shard}-of-0000{len(rows)}.parquet"
                pa.parquet.write_table(pa.Table.from_pylist([row]), parquet)
        elif suffix == ".jsonl":
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            lines = [list(columns), *([str(value) for value in row.values()] for row in rows)]
            (tmp_path / f"{name}{suffix}").write_text("".join(sep.join(line) + "\n" for line in lines))
    files = sorted(path.name for path in tmp_path.iterdir())
    described = describe_data_files(tmp_path, files)
    card = render_card(FolderFacts("dataset", run={"files": described}, files=files), "me/data")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    configs = data_configs(described)
    assert len(configs) == (1 if suffixes[0] == ".jsonl" else 2)
    for config, columns in zip(configs, tables, strict=False):
        (rows,) = datasets.load_dataset(str(tmp_path), config["config_name"], streaming=True).values()
        assert pa.Table.from_pylist(list(rows)).to_pydict() == columns


def test_memory_does_not_grow_with_a_csv(tmp_path):
    block, blocks = (b"x" * 200 + b",1\n") * 1000, 1200  # 245 MB
    with (tmp_path / "big.csv").open("wb") as file:
        file.write(b"text,n\n")
        file.writelines(block for _ in range(blocks))
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)  # counts from 0
    pa.set_memory_pool(pool)
    try:
        assert describe_data_files(tmp_path, ["big.csv"])["big.csv"]["num_rows"] == 1000 * blocks
    finally:
        pa.set_memory_pool(before)
    # What is read ahead: some 60 MB, more or fewer by how fast it's taken.
    assert 1 << 20 < pool.max_memory() < 120e6


def test_names_of_splits_and_configs():
    def describe(*columns):
        return {"num_rows": 1, "columns": list(columns)}

    configs = data_configs(
        {
            "training/a.csv": describe("x"),
            "training/a_dev.csv": describe("x"),
            "other/strain.csv": describe("y"),
            "other/b c.csv": describe("z"),
            "data/x-00000-of-00002.csv": describe("x"),
            "data/x-00001-of-00002.csv": describe("x"),
        }
    )
    assert [(config["config_name"], config["data_files"]) for config in configs] == [
        (
            "default",
            [
                {"split": "train", "path": ["training/a.csv", "data/x-*.csv"]},
                {"split": "validation", "path": "training/a_dev.csv"},
            ],
        ),
        ("other", [{"split": "train", "path": "other/strain.csv"}]),
        ("other-b-c-csv", [{"split": "train", "path": "other/b c.csv"}]),
    ]
    sizes = [size_category(n) for n in (0, 999, 1000, 10**6 - 1, 10**6, 10**12)]
    assert sizes == ["n<1K", "n<1K", "1K<n<10K", "100K<n<1M", "1M<n<10M", "n>1T"]


# --- The cards of the published recipes.


@pytest.fixture(scope="module")
def renderer():
    spec = importlib.util.spec_from_file_location("render", ROOT / "model_cards" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_cards_are_fresh(renderer):
    cards = renderer.render()
    assert set((ROOT / "model_cards").glob("*.md")) == set(cards)
    for path, text in cards.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make cards`"
        assert is_generated(text)


def test_check_fails_on_a_stale_card(renderer, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    renderer.main()
    path, text = next(iter(renderer.render().items()))
    monkeypatch.setattr(renderer, "render", lambda: {path: text + "more"})
    with pytest.raises(SystemExit, match=path.name):
        renderer.main()
    assert path.read_text(encoding="utf-8") == text, "--check writes nothing"


def test_published_numbers_are_means_of_the_results(renderer):
    paths = sorted(ROOT.glob("results/beauty_letter_16epochs_seed*.json"))
    tests = torch.tensor([json.loads(path.read_text())["test"]["ndcg@10"] for path in paths], dtype=torch.float64)
    card = (ROOT / "model_cards/qwen2-small-beauty-letter.md").read_text(encoding="utf-8")
    cells = {row[0]: row[1] for row in table(card, "Metric")[2:]}
    assert cells["NDCG@10"] == f"{tests.mean():.4f} ± {tests.std():.4f}"
    assert f"deviation of {len(paths)} seeds" in card
