# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Prediction files: what a search of each row gives, through kills, and FORGE's hit rate on them."""

import contextlib
import json
import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import debug_launcher
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_hf import PrefixTable, SemanticIdCatalog, constrained_beam_search, create_retriever, retrieve
from forge_hf.data import MalformedRows
from forge_hf.errors import (
    CorruptFileError,
    FingerprintMismatchError,
    InvalidSequencesError,
    MalformedRowsError,
    OutputInUseError,
)
from forge_hf.evaluation import hit_rate_of_predictions, predict_to_jsonl, prediction
from forge_hf.hub import Shards, lock_file
from forge_hf.tokenization import HistoryEncoder, PromptEncoder


SIZES = [4, 5, 6]
TINY = {
    "qwen2-small": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    "t5-tiger": {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1},
}
KEYS = {"qwen2-small": "_generated_new_text_", "t5-tiger": "_generated_text_"}


@pytest.fixture(scope="module")
def catalog():
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (60,), generator=generator) for size in SIZES], dim=1)
    return SemanticIdCatalog.from_codes([f"i{n}" for n in range(60)], codes, codebook_sizes=SIZES, on_collision="keep")


@pytest.fixture(scope="module")
def retrievers(catalog):
    made = {}
    for name, sizes in TINY.items():
        torch.manual_seed(0)
        model, tokenizer = create_retriever(name, catalog, **sizes)
        with torch.no_grad():  # scores apart from each other, so that orders don't hang on rounding
            model.get_output_embeddings().weight.normal_(std=0.5)
        made[name] = model.eval(), tokenizer
    return made


@pytest.fixture(scope="module")
def rows(catalog):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 9, (75,), generator=generator).tolist()
    histories = [torch.randint(60, (length,), generator=generator) for length in lengths]
    return Dataset.from_dict(
        {
            "system": ["predict"] * 75,
            "user": ["clicks: " + "".join(catalog.layout.to_text(catalog.codes[history])) for history in histories],
            "history": [[catalog.item_ids[row] for row in history] for history in histories],
            "answer": [f"i{row % 60};日本" for row in range(75)],
        }
    )


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("num_beams", [7, (3, 6, 12), 200])
def test_every_row_has_what_a_search_of_it_alone_gives(retrievers, catalog, rows, tmp_path, name, num_beams):
    model, tokenizer = retrievers[name]
    model.train()
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "o.jsonl", num_beams=num_beams, batch_size=4)
    assert model.training and [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]
    model.eval()
    lines = read(tmp_path / "o.jsonl")
    assert [{column: line[column] for column in rows.column_names} for line in lines] == rows.to_list()
    table = PrefixTable.from_catalog(catalog, tokenizer)
    encode = PromptEncoder(tokenizer, catalog.layout, model.config.is_encoder_decoder)
    for line, prompt in zip(lines, encode.encode_prompts(rows[:]), strict=True):
        found = constrained_beam_search(model, prompt[None], None, table, num_beams)
        sequences = found.sequences[found.leaves >= 0]
        expected = [tokenizer.decode(tokens).replace(" ", "") for tokens in sequences]
        assert line[KEYS[name]] == expected
    assert num_beams != 200 or all(len(line[KEYS[name]]) == table.num_leaves for line in lines)


def test_histories_of_item_ids(retrievers, catalog, rows, tmp_path):
    model, tokenizer = retrievers["qwen2-small"]
    histories = rows.remove_columns(["user", "system"])
    predict_to_jsonl(model, tokenizer, catalog, histories, tmp_path / "o.jsonl", num_beams=60, show_progress=False)
    expected = retrieve(model, tokenizer, catalog, rows["history"][:], 60, exclude_history=False, num_beams=60)
    for line, items in zip(read(tmp_path / "o.jsonl"), expected.item_ids, strict=True):
        codes = catalog.layout.from_text(line["_generated_new_text_"])
        assert sum(catalog.items_for(codes), []) == items
    encoder = HistoryEncoder(catalog, tokenizer, False, max_items=1)
    last = rows.select_columns(["history"]).map(lambda row: {"history": row["history"][-1:]})
    options = {"num_beams": 5, "show_progress": False}
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "a.jsonl", encoder=encoder, **options)
    predict_to_jsonl(model, tokenizer, catalog, last, tmp_path / "b.jsonl", **options)
    key = "_generated_new_text_"
    assert [line[key] for line in read(tmp_path / "a.jsonl")] == [line[key] for line in read(tmp_path / "b.jsonl")]


def test_malformed_rows_have_no_predictions(retrievers, catalog, rows, tmp_path):
    model, tokenizer = retrievers["t5-tiger"]
    texts = rows["user"][:]
    texts[3], texts[40] = "no history", "C0C4"
    rows = rows.remove_columns("user").add_column("user", texts)
    path = tmp_path / "o.jsonl"
    options = {"num_beams": 5, "batch_size": 4, "show_progress": False}
    with pytest.raises(MalformedRowsError):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, malformed=MalformedRows(0), **options)
    assert not path.exists()
    with pytest.warns(UserWarning, match="2 of 75 rows.*row 4"):
        predict_to_jsonl(
            model, tokenizer, catalog, rows, tmp_path / "p.jsonl", malformed=MalformedRows(0.5), **options
        )
    lines = read(tmp_path / "p.jsonl")
    assert [row for row, line in enumerate(lines) if line["_generated_text_"] == []] == [3, 40]
    assert len(lines) == 75


def test_malformed_rows_are_counted_whatever_was_finished_before(retrievers, catalog, rows, tmp_path, monkeypatch):
    model, tokenizer = retrievers["qwen2-small"]
    texts = rows["user"][:]
    texts[70] = "no history"  # in the last window
    rows = rows.remove_columns("user").add_column("user", texts)
    path = tmp_path / "o.jsonl"
    options = {"num_beams": 5, "batch_size": 4, "show_progress": False}
    searches = kill_after(3, monkeypatch)
    for _ in range(2):
        with pytest.raises(MalformedRowsError, match="1 of 75 rows"):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    assert searches == [0] and not list(tmp_path.iterdir())
    for _ in range(2):
        malformed = MalformedRows(0.5)
        with pytest.warns(UserWarning, match="1 of 75 rows"), contextlib.suppress(KeyboardInterrupt):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, malformed=malformed, **options)
        assert (malformed.num_malformed, malformed.num_rows) == (1, 75)
        searches[0] = -100
    assert len(read(path)) == 75


def kill_after(searches, monkeypatch):
    """Lets a few searches pass, and then kills the process, or raises."""
    search, count = prediction.constrained_beam_search, [0]

    def limited(*args, **kwargs):
        count[0] += 1
        if searches is not None and count[0] > searches:
            raise KeyboardInterrupt
        return search(*args, **kwargs)

    monkeypatch.setattr(prediction, "constrained_beam_search", limited)
    return count


def test_goes_on_where_it_was_stopped(retrievers, catalog, rows, tmp_path, monkeypatch):
    model, tokenizer = retrievers["qwen2-small"]
    options = {"num_beams": 7, "batch_size": 4, "show_progress": False}
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "whole.jsonl", **options)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part-0000"
    num_batches = -(-75 // 4)
    for stop in (0, 1, 5, num_batches - 1):
        with monkeypatch.context() as patch:
            kill_after(stop, patch)
            with pytest.raises(KeyboardInterrupt):
                predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
        assert not path.exists() and part.exists()
        if stop == 5:  # a shard that ends in the middle of a letter
            content = part.read_bytes()
            part.write_bytes(content[: content.rindex("日".encode()) + 1])
        with monkeypatch.context() as patch:
            count = kill_after(None, patch)
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
        assert count[0] == num_batches - stop + (stop == 5)
        assert path.read_bytes() == whole and not part.exists()
        path.unlink()
    # At any byte: no row is lost or repeated.
    kill_after(num_batches - 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    monkeypatch.undo()
    content = part.read_bytes()
    for size in range(0, len(content), len(content) // 7):
        part.write_bytes(content[:size])
        predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
        assert path.read_bytes() == whole
        path.unlink()


def test_a_killed_process_leaves_what_another_goes_on_with(retrievers, catalog, rows, tmp_path, monkeypatch):
    model, tokenizer = retrievers["t5-tiger"]
    options = {"num_beams": 7, "batch_size": 4, "show_progress": False}
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "whole.jsonl", **options)
    child = os.fork()
    if child == 0:
        write, count = Shards.write, [0]

        def write_and_die(self, *args):
            write(self, *args)
            count[0] += 1
            if count[0] == 3:
                self._file.write(b"shard 17 900 half a shard")
                os.kill(os.getpid(), signal.SIGKILL)

        Shards.write = write_and_die
        predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "o.jsonl", **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "o.jsonl").exists()
    count = kill_after(None, monkeypatch)
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "o.jsonl", **options)
    assert count[0] == -(-75 // 4) - 3
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def predict(model, tokenizer, catalog, rows, path):
    torch.set_num_threads(1)
    predict_to_jsonl(model, tokenizer, catalog, rows, path, num_beams=7, batch_size=4, show_progress=False)


def test_two_processes_write_what_one_does(retrievers, catalog, rows, tmp_path, monkeypatch):
    model, tokenizer = retrievers["qwen2-small"]
    arguments = (model, tokenizer, catalog, rows)
    predict(*arguments, tmp_path / "one.jsonl")
    # Two processes go on with what one began, and with a part of a third.
    with monkeypatch.context() as patch:
        kill_after(6, patch)
        with pytest.raises(KeyboardInterrupt):
            predict(*arguments, tmp_path / "two.jsonl")
    (tmp_path / "two.jsonl.part-0000").rename(tmp_path / "two.jsonl.part-0002")
    debug_launcher(predict, args=(*arguments, tmp_path / "two.jsonl"), num_processes=2)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "two.jsonl"]


def other_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_a_damaged_batch_is_searched_again(retrievers, catalog, rows, tmp_path, monkeypatch, caplog):
    model, tokenizer = retrievers["qwen2-small"]
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part-0000"
    options = {"num_beams": 5, "batch_size": 4, "show_progress": False}
    predict_to_jsonl(model, tokenizer, catalog, rows, tmp_path / "whole.jsonl", **options)
    with monkeypatch.context() as patch:
        kill_after(10, patch)
        with pytest.raises(KeyboardInterrupt):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    content = part.read_bytes()
    middle = content.index(b"clicks", len(content) // 2)
    part.write_bytes(content[:middle] + b"Clicks" + content[middle + 6 :])
    count = kill_after(None, monkeypatch)
    predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    assert count[0] == -(-75 // 4) - 10 + 1 and "checksum" in caplog.text
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "whole.jsonl"]


def test_refuses_what_doesnt_belong_together(retrievers, catalog, rows, tmp_path, monkeypatch):
    model, tokenizer = retrievers["qwen2-small"]
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part-0000"
    options = {"num_beams": 5, "batch_size": 4, "show_progress": False}
    with monkeypatch.context() as patch:
        kill_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    content = part.read_bytes()
    with pytest.raises(ValueError, match="`num_beams` .* then, .* now"):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, **options | {"num_beams": 6})
    with pytest.raises(ValueError, match="num_rows"):
        predict_to_jsonl(model, tokenizer, catalog, rows.select(range(70)), path, **options)
    last = rows.select([*range(74), 0])
    with pytest.raises(ValueError, match="`rows`"):
        predict_to_jsonl(model, tokenizer, catalog, last, path, **options)
    weight = next(model.parameters())
    with torch.no_grad():
        weight[-1, -1] += 1
        with pytest.raises(ValueError, match="model"):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
        weight[-1, -1] -= 1
    with lock_file(path), pytest.raises(OutputInUseError, match="o.jsonl"):
        other_thread(lambda: predict_to_jsonl(model, tokenizer, catalog, rows, path, **options))
    assert part.read_bytes() == content
    part.write_bytes(b"something else\n")
    with pytest.raises(CorruptFileError, match="isn't a part"):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    part.unlink()
    path.write_text("")
    with pytest.raises(FileExistsError):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, **options)
    path.unlink()
    other = SemanticIdCatalog.from_codes(["a"], [[0, 0, 0]], codebook_sizes=SIZES, on_collision="keep")
    with pytest.raises(FingerprintMismatchError):
        predict_to_jsonl(model, tokenizer, other, rows, path, **options)
    for changed in ({"num_beams": (1, 2)}, {"num_beams": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(changed))):
            predict_to_jsonl(model, tokenizer, catalog, rows, path, **options | changed)
    for wrong in (rows.select([]), rows.select_columns(["answer"])):
        with pytest.raises(InvalidSequencesError):
            predict_to_jsonl(model, tokenizer, catalog, wrong, path, **options)
    encoder = PromptEncoder(retrievers["t5-tiger"][1], catalog.layout, True)
    with pytest.raises(ValueError, match="encoder"):
        predict_to_jsonl(model, tokenizer, catalog, rows, path, encoder=encoder, **options)
    assert not list(tmp_path.iterdir())


# --- Hit rates ---


def forge_hit_rates(samples, items_of_sid, ks):
    """FORGE's definition, as algr/calc_hr.py has it, spelled out."""
    rates = {k: [] for k in ks}
    for answer, sids in samples:
        found = []
        for sid in sids:
            found += items_of_sid.get(sid, [])
        truth = set(answer.strip().split(";"))
        for k in ks:
            rates[k].append(len(set(found[:k]) & truth) / len(truth))
    return {f"hit_rate@{k}": sum(values) / len(values) for k, values in rates.items()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_hit_rate_is_forges(tmp_path, data):
    sizes = data.draw(st.sampled_from([[2, 2], [2, 3, 2], [8192, 8192, 8192]]))
    code = [st.integers(0, min(size, 2) - 1) for size in sizes]
    codes = data.draw(st.lists(st.tuples(*code), min_size=1, max_size=12))
    kind = data.draw(st.sampled_from([str, int]))
    ids = [f"00{row}" if kind is str else row for row in range(len(codes))]
    catalog = SemanticIdCatalog.from_codes(ids, codes, codebook_sizes=sizes, on_collision="keep")
    items_of_sid = {}
    for item, row in zip(ids, codes, strict=True):
        sid = "".join(f"C{code + sum(sizes[:level])}" for level, code in enumerate(row))
        items_of_sid.setdefault(sid, []).append(str(item))
    sids = st.one_of(
        st.sampled_from(sorted(items_of_sid)),
        st.tuples(*code).map(lambda row: "".join(f"C{n + sum(sizes[:level])}" for level, n in enumerate(row))),
        st.sampled_from(["", "C0", "C00C2", "C1 C2", "C9C9C9", "C99999999999999", "日本", "C1C2C3C4C5"]),
    )
    truth = st.one_of(st.sampled_from([str(item) for item in ids]), st.sampled_from(["unknown", "", "0", "007"]))
    answers = st.lists(truth, min_size=1, max_size=5).map(";".join)
    padded = st.tuples(st.sampled_from(["", " ", "\n"]), answers).map("".join)
    samples = data.draw(st.lists(st.tuples(padded, st.lists(sids, max_size=14)), min_size=1, max_size=6))
    ks = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    key = data.draw(st.sampled_from(list(KEYS.values())))
    lines = [json.dumps({"answer": answer, key: found}, ensure_ascii=False) for answer, found in samples]
    (tmp_path / "o.jsonl").write_text("\n".join(lines) + data.draw(st.sampled_from(["", "\n", "\n\n"])), "utf-8")
    actual = hit_rate_of_predictions(tmp_path / "o.jsonl", catalog, ks)
    assert actual == pytest.approx(forge_hit_rates(samples, items_of_sid, ks), abs=1e-12)


def test_hit_rate_of_what_was_predicted(retrievers, catalog, rows, tmp_path):
    for name, (model, tokenizer) in retrievers.items():
        path = tmp_path / f"{name}.jsonl"
        predict_to_jsonl(model, tokenizer, catalog, rows, path, num_beams=(4, 8, 16), show_progress=False)
        items_of_sid = {}
        for item, sid in zip(catalog.item_ids, catalog.layout.to_text(catalog.codes), strict=True):
            items_of_sid.setdefault(sid, []).append(item)
        samples = [(line["answer"], line[KEYS[name]]) for line in read(path)]
        ks = (1, 5, 20, 1000)
        rates = hit_rate_of_predictions(path, catalog, ks)
        assert rates == pytest.approx(forge_hit_rates(samples, items_of_sid, ks)) and 0 < rates["hit_rate@20"] < 0.5


def test_hit_rate_of_what_isnt_a_prediction(catalog, tmp_path):
    path = tmp_path / "o.jsonl"
    good = json.dumps({"answer": "i1", "_generated_text_": ["C0C4C9"]})
    no_list = ['{"answer": "i1", "_generated_text_": "C0"}', '{"answer": "i1", "_generated_text_": [1]}']
    no_text = ['{"answer": "i1"}', '{"answer": 1, "_generated_text_": []}']
    for line in ("", "{", "[]", good[:-3], *no_list, *no_text):
        path.write_text(f"{good}\n{line}\n" if line else "\n")
        with pytest.raises(CorruptFileError):
            hit_rate_of_predictions(path, catalog)
    with pytest.raises(FileNotFoundError):
        hit_rate_of_predictions(tmp_path / "none", catalog)
    for ks in ((), (0,), (1.5,)):
        with pytest.raises(ValueError, match="ks"):
            hit_rate_of_predictions(path, catalog, ks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_text(good)
        assert hit_rate_of_predictions(path, catalog, [5], show_progress=False).keys() == {"hit_rate@5"}
