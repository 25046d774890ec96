# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging as transformers_logging

from forge_hf import GenerativeRetrievalPipeline, SemanticIdCatalog, SemanticIdTokenizer, retrieve
from forge_hf.errors import FingerprintMismatchError, InvalidSequencesError, UnknownItemError
from forge_hf.generation import load_retriever


SIZES = [6, 5, 4]


def make_catalog(item_ids):
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (30,), generator=generator) for size in SIZES], dim=-1)
    return SemanticIdCatalog.from_codes(item_ids, codes, codebook_sizes=SIZES)


@pytest.fixture(params=[int, str])
def catalog(request):
    return make_catalog([request.param(10 * n) for n in range(30)])


@pytest.fixture
def folder(architecture, make_model, catalog, tmp_path):
    tokenizer = SemanticIdTokenizer(layout=catalog.layout)
    model = make_model(architecture, catalog.layout.num_codes, semantic_id_fingerprint=catalog.fingerprint)
    model.generation_config.update(do_sample=True, top_p=0.5, max_new_tokens=2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    catalog.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def recommend(folder):
    return pipeline("generative-retrieval", model=str(folder), device="cpu")


def test_folder_gives_what_retrieve_gives(recommend, catalog):
    assert isinstance(recommend, GenerativeRetrievalPipeline)
    assert isinstance(recommend.tokenizer, SemanticIdTokenizer)
    history = catalog.item_ids[3:6]
    expected = retrieve(recommend.model, recommend.tokenizer, catalog, [history], top_k=4)
    answer = recommend(history, top_k=4)
    assert [entry["item_id"] for entry in answer] == expected.item_ids[0]
    assert [entry["score"] for entry in answer] == expected.scores[0]
    codes = catalog.codes_for(expected.item_ids[0])
    assert [entry["semantic_id"] for entry in answer] == catalog.layout.to_text(codes)
    assert len(recommend(history)) == 10


def test_options_of_a_call_are_those_of_retrieve(recommend, catalog):
    histories = [catalog.item_ids[3:6], catalog.item_ids[20:21]]
    items = catalog.item_ids
    for options in (
        {"exclude": items[:9]},
        {"exclude": [items[:9], items[9:12]]},
        {"candidates": items[10:28]},
        {"temperature": 2.0, "seed": 3},
        {"unseen_items": items[:6], "unseen_fraction": 0.5},
        {"num_beams": [4, 10, 20, 30]},
    ):
        expected = retrieve(recommend.model, recommend.tokenizer, catalog, histories, top_k=4, **options).item_ids
        names = {"exclude", "candidates", "unseen_items"}
        as_text = {name: _as_text(value) if name in names else value for name, value in options.items()}
        for given in (options, as_text):
            answers = recommend(histories, top_k=4, **given)
            assert [[entry["item_id"] for entry in answer] for answer in answers] == expected
    with pytest.raises(ValueError, match="`exclude` can't hold a list for each"):
        list(recommend(iter(histories), exclude=[[items[0]], []]))


def _as_text(value):
    return [_as_text(item) for item in value] if isinstance(value, list) else str(value)


def test_timings_on_request(recommend, catalog):
    recommend(catalog.item_ids[3:6])
    assert recommend.timings is None
    recommend(catalog.item_ids[3:6], timings=True)
    assert min(recommend.timings.values()) > 0


def test_single_and_several_histories(recommend, catalog):
    first, second = catalog.item_ids[3:6], catalog.item_ids[20:21]
    one, other = recommend(first, top_k=3), recommend(second, top_k=3)
    ids = [[entry["item_id"] for entry in answer] for answer in (one, other)]
    for batch_size in (1, 2):
        several = recommend([first, second], top_k=3, batch_size=batch_size)
        assert [[entry["item_id"] for entry in answer] for answer in several] == ids
    assert [[e["item_id"] for e in answer] for answer in recommend([first], top_k=3)] == ids[:1]


class Histories(torch.utils.data.Dataset):
    """A dataset as torch has them: a length, items, and no error behind its end."""

    def __init__(self, rows):
        self.rows = rows
        self.read = 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        self.read += 1
        return self.rows[row % len(self.rows)]


def test_streams(recommend, catalog):
    histories = [catalog.item_ids[3:6], catalog.item_ids[20:21], catalog.item_ids[3:7]]
    expected = [[entry["item_id"] for entry in answer] for answer in recommend(histories, top_k=3)]
    table = Dataset.from_dict({"user_id": [1, 2, 3], "history": histories})
    map_style = Histories(histories)
    inputs = [(history for history in histories), iter(histories), map_style, KeyDataset(table, "history")]
    inputs += [(row["history"] for row in table.to_iterable_dataset())]
    for stream in inputs:
        answers = recommend(stream, top_k=3, batch_size=2)
        assert not isinstance(answers, list)
        assert [[entry["item_id"] for entry in answer] for answer in answers] == expected
    assert map_style.read == 3
    next(iter(recommend(map_style, batch_size=1)))
    assert map_style.read == 4  # no more than is needed
    assert list(recommend(iter([]))) == []
    column = recommend(table["history"], top_k=3)
    assert [[entry["item_id"] for entry in answer] for answer in column] == expected
    with pytest.raises(InvalidSequencesError, match=r"columns \['user_id', 'history'\].*dataset\['history'\]"):
        list(recommend(table))


def test_ids_are_brought_to_the_catalogs_type(recommend, catalog):
    as_text, as_numbers = recommend(["10", "20", "110"]), recommend([10, 20, 110])
    assert as_text == as_numbers == recommend([10, "20", 110])
    assert all(type(entry["item_id"]) is type(catalog.item_ids[0]) for entry in as_text)
    for unknown in ("010", "ten", "7", 7):
        with pytest.raises(UnknownItemError, match=str(unknown)):
            recommend(["10", unknown])


def test_defaults_given_at_construction(folder, catalog):
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", top_k=2, exclude_history=False)
    assert len(recommend(catalog.item_ids[:3])) == 2
    assert len(recommend(catalog.item_ids[:3], top_k=30)) == 30


def test_nothing_is_logged(folder, catalog, caplog):
    transformers_logging.get_logger("transformers").addHandler(caplog.handler)
    try:
        pipeline("generative-retrieval", model=str(folder), device="cpu")(catalog.item_ids[:3])
    finally:
        transformers_logging.get_logger("transformers").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_catalog_beside_the_model_or_given(folder, catalog, make_model, architecture):
    for file in folder.glob("semantic_ids.*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no catalog of semantic IDs beside the model.*`catalog=`"):
        pipeline("generative-retrieval", model=str(folder), device="cpu")
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", catalog=catalog)
    assert len(recommend(catalog.item_ids[:2])) == 10

    model = make_model(architecture, catalog.layout.num_codes, semantic_id_fingerprint=catalog.fingerprint)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="Give `catalog=`"):
        pipeline("generative-retrieval", model=model, tokenizer=tokenizer, device="cpu")
    recommend = pipeline("generative-retrieval", model=model, tokenizer=tokenizer, catalog=catalog, device="cpu")
    assert len(recommend(catalog.item_ids[:2])) == 10

    other = SemanticIdCatalog(catalog.item_ids, catalog.codes.flip(0), catalog.layout)
    with pytest.raises(FingerprintMismatchError, match=f"{catalog.fingerprint}.*{other.fingerprint}"):
        pipeline("generative-retrieval", model=str(folder), device="cpu", catalog=other)


def test_tokenizer_given(folder, catalog):
    model = load_retriever(folder).model
    with pytest.raises(ValueError, match="Give `tokenizer=`"):
        pipeline("generative-retrieval", model=model, device="cpu", catalog=catalog)
    for given in (str(folder), SemanticIdTokenizer(layout=catalog.layout)):
        for source in (model, str(folder)):
            recommend = pipeline("generative-retrieval", model=source, tokenizer=given, device="cpu")
            assert len(recommend(catalog.item_ids[:2])) == 10
            assert isinstance(given, str) or recommend.tokenizer is given


def test_loaded_parts(folder, recommend, catalog):
    again = pipeline("generative-retrieval", device="cpu", **load_retriever(folder)._asdict())
    assert again(catalog.item_ids[:4]) == recommend(catalog.item_ids[:4])


def test_saved_pipeline_loads_without_trust(recommend, catalog, tmp_path):
    recommend.save_pretrained(tmp_path / "saved")
    again = pipeline("generative-retrieval", model=str(tmp_path / "saved"), device="cpu")
    assert again(catalog.item_ids[:4]) == recommend(catalog.item_ids[:4])


def test_dtype_is_the_one_asked_for(folder, catalog):
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", dtype=torch.bfloat16)
    assert recommend.dtype == torch.bfloat16
    assert len(recommend(catalog.item_ids[:2])) == 10
    recommend = pipeline("generative-retrieval", model=str(folder), device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert recommend.dtype == torch.bfloat16


def test_bad_input(recommend, catalog):
    with pytest.raises(InvalidSequencesError, match="empty history"):
        recommend([])
    with pytest.raises(InvalidSequencesError, match="rows 1"):
        recommend([catalog.item_ids[:2], []])
    with pytest.raises(InvalidSequencesError, match="single id '10'"):
        recommend("10")
    with pytest.raises(TypeError, match="top_p"):
        recommend(catalog.item_ids[:2], top_p=0.5)


def test_ids_of_numpy(recommend, catalog):
    ids = [int(item) for item in catalog.item_ids]
    expected = recommend(ids[3:6], top_k=4, exclude=ids[10:20])
    assert recommend([np.int64(item) for item in ids[3:6]], top_k=4, exclude=np.array(ids[10:20])) == expected
