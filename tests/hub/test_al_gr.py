# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets of AL-GR's form: pushed as a folder, loaded by name, and made into a catalog."""

import csv

from forge_hf import SemanticIdLayout


LAYOUT = SemanticIdLayout([8192, 8192, 8192])
CODES = [[0, 8191, 5], [12, 7, 16], [8191, 0, 1]]


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(rows)


def test_al_gr_files(hub, run_python, run_command, tmp_path):
    folder = tmp_path / "al-gr"
    texts = LAYOUT.to_text(CODES)
    train = [["you are a recommender", "".join(texts[:n]), texts[n % 3]] for n in range(1, 8)]
    write_csv(folder / "train_data" / "s1_tiny.csv", [["system", "user", "answer"], *train])
    test = [["you are a recommender", texts[0], "1aZ;0c"]]
    write_csv(folder / "test_data" / "s1_tiny_test.csv", [["system", "user", "answer"], *test])
    items = [["1aZ", *CODES[0]], ["b", "", "", ""], ["0c", *CODES[1]], ["Zz9", *CODES[2]]]
    header = ["base62_string", "codebook_lv1", "codebook_lv2", "codebook_lv3"]
    write_csv(folder / "item_info" / "tiny_item_sid_final.csv", [header, *items])

    pushed = run_command("forge-hf", "push", folder, "AL-GR/AL-GR-Tiny", "--repo-type", "dataset")
    assert pushed.returncode == 0, pushed.stderr
    again = run_command("forge-hf", "push", folder, "AL-GR/AL-GR-Tiny", "--repo-type", "dataset")
    assert again.stdout == pushed.stdout and len(hub.commits("AL-GR/AL-GR-Tiny", "dataset")) == 2
    files = hub.files("AL-GR/AL-GR-Tiny", "dataset")
    assert {"train_data/s1_tiny.csv", "item_info/tiny_item_sid_final.csv", "README.md"} <= files.keys()
    assert "s1_tiny.csv" in files["README.md"].decode()

    answer = run_python(
        """
        import json, warnings
        from datasets import load_dataset
        from forge_hf import SemanticIdCatalog, SemanticIdLayout, SemanticIdTokenizer
        from forge_hf.data import read_text_rows
        from forge_hf.tokenization import PromptEncoder
        from forge_hf.training import PromptStream
        answer = {}
        options = {"data_files": "train_data/s1_tiny.csv", "split": "train"}
        answer["plain"] = load_dataset("AL-GR/AL-GR-Tiny", **options).to_list()
        answer["streamed"] = list(load_dataset("AL-GR/AL-GR-Tiny", streaming=True, **options))
        layout = SemanticIdLayout([8192] * 3)
        encoder = PromptEncoder(SemanticIdTokenizer(layout=layout), layout, is_encoder_decoder=True)
        rows = read_text_rows("hf://datasets/AL-GR/AL-GR-Tiny/train_data/s1_tiny.csv", streaming=True)
        stream = PromptStream(rows, encoder, buffer_size=0)
        labels = [labels[:3] for _, labels in stream.epoch(0)]
        answer["trained on"] = [encoder.tokenizer.decode(codes) for codes in labels]
        test = read_text_rows("hf://datasets/AL-GR/AL-GR-Tiny/test_data/s1_tiny_test.csv")
        answer["test"] = test["answer"][:]
        items = load_dataset("AL-GR/AL-GR-Tiny", data_files="item_info/tiny_item_sid_final.csv", split="train")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            catalog = SemanticIdCatalog.from_dataset(items, codebook_sizes=[8192] * 3)
        answer["warned"] = [str(warning.message) for warning in caught if "no codes" in str(warning.message)]
        catalog.push_to_hub("forge/al-gr-semantic-ids")
        catalog = SemanticIdCatalog.from_pretrained("forge/al-gr-semantic-ids")
        answer["catalog"] = [catalog.item_ids, catalog.codes.tolist()]
        # The texts of the training rows name the catalog's items.
        codes = catalog.layout.from_text([row["answer"] for row in answer["plain"]])
        answer["answers"] = [items[0] for items in catalog.items_for(codes)]
        print(json.dumps(answer))
        """
    )
    expected = [dict(zip(["system", "user", "answer"], row, strict=True)) for row in train]
    assert answer["plain"] == answer["streamed"] == expected
    assert answer["trained on"] == [row["answer"] for row in expected]
    assert answer["test"] == ["1aZ;0c"]
    ids = ["1aZ", "0c", "Zz9"]
    assert answer["catalog"] == [ids, CODES] and len(answer["warned"]) == 1
    assert answer["answers"] == [ids[n % 3] for n in range(1, 8)]
