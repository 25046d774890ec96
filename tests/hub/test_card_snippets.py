# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What a pushed card tells its reader to do, done: taken from the README of the Hub, and run in a fresh process."""

import re

import pytest
import torch

from forge_hf import RQVAEConfig, RQVAEModel, SemanticIdCatalog, create_retriever


PUSH = """
import sys
from forge_hf.hub import push_folder

for kind in ("item_tokenizer", "catalog", "retriever", "dataset"):
    push_folder(f"{sys.argv[1]}/{kind}", f"forge/{kind}", repo_type="dataset" if kind == "dataset" else "model")
"""


@pytest.fixture
def folders(tmp_path):
    """A folder of each kind, but an adapter: its card gives a retriever's code."""
    torch.manual_seed(0)
    rqvae = RQVAEModel(RQVAEConfig(input_dim=12, hidden_sizes=[8], codebook_dim=4, codebook_sizes=[8, 6]))
    catalog = SemanticIdCatalog.from_codes(
        [f"i{n}" for n in range(30)], [[n // 8, n % 8] for n in range(30)], codebook_sizes=[4, 8], on_collision="keep"
    )
    model, tokenizer = create_retriever("qwen2-small", catalog, hidden_size=32, num_hidden_layers=1)
    rqvae.save_pretrained(tmp_path / "item_tokenizer")
    catalog.save_pretrained(tmp_path / "catalog")
    for part in (model, tokenizer, catalog):
        part.save_pretrained(tmp_path / "retriever")
    for name, rows in (("train", "sees C1C9,C2C8\nC2,C3"), ("test", "only in the test,C3")):
        (tmp_path / "dataset").mkdir(exist_ok=True)
        (tmp_path / "dataset" / f"{name}.csv").write_text(f"user,answer\n{rows}\n")
    return tmp_path


def test_the_code_on_each_card_runs(hub, run_python, folders):
    run_python(PUSH, folders)
    code = {}
    for kind in ("item_tokenizer", "catalog", "retriever", "dataset"):
        readme = hub.files(f"forge/{kind}", "dataset" if kind == "dataset" else "model")["README.md"].decode()
        (code[kind],) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)

    bare = run_python(
        f"{code['item_tokenizer']}\nimport importlib.util, json\n"
        "print(json.dumps([list(codes.shape), list(restored.shape), importlib.util.find_spec('forge_hf') is None]))\n",
        without_forge_hf=True,
    )
    assert bare == [[4, 2], [4, 12], True]

    answer = run_python(
        f"{code['catalog']}\nanswer = [codes.tolist(), items]\n{code['dataset']}\n{code['retriever']}\n"
        "import json\nprint(json.dumps([*answer, list(rows), history, recommend(history, top_k=5)]))\n"
    )
    codes, items, rows, history, recommended = answer
    assert codes == [[0, 0], [0, 1]] and items == [["i0"], ["i1"]]
    assert rows == [{"user": "sees C1C9", "answer": "C2C8"}, {"user": "C2", "answer": "C3"}]
    assert history == ["i0", "i1", "i2"] and len({item["item_id"] for item in recommended} - set(history)) == 5
