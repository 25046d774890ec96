# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""Shards of a long job: what comes back is what was written, or nothing."""

import os
import resource

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_hf.errors import CorruptFileError, OutputInUseError, StorageError
from forge_hf.hub import Shards

from ..faults import in_child, kill_points


SETTINGS = {"model": "a", "sizes": [4, 4]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_happens_to_the_files_no_wrong_bytes_come_back(tmp_path, data):
    path = tmp_path / "job"
    Shards.remove(path)
    written = {}
    for _ in range(data.draw(st.integers(1, 5), label="runs")):
        part = data.draw(st.integers(0, 2), label="part")
        with Shards(path, SETTINGS, part) as shards:
            assert {number: shards.read(number) for number in range(9) if number in shards} == written
            for number in data.draw(st.lists(st.integers(0, 8), unique=True, max_size=4)):
                if number not in shards:
                    content = data.draw(st.binary(max_size=40) | st.just(b"shard 1 2 \n" * 9))
                    shards.write(number, content)
                    written[number] = content
        own = tmp_path / f"job.part-{part:04d}"
        content = own.read_bytes()
        harm = data.draw(st.sampled_from(["none", "cut", "flip", "add", "beginning"]))
        if harm == "cut":
            own.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        elif harm == "flip":
            place = data.draw(st.integers(16, len(content) - 1))
            own.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
            )
        elif harm == "add":
            own.write_bytes(content + data.draw(st.binary(max_size=60)))
        elif harm == "beginning":
            own.write_bytes(content + b"shard 4 100 " + b"0" * 32 + b"\nhalf")
        again = Shards(path, SETTINGS)
        found = {number: again.read(number) for number in range(9) if number in again}
        assert found.items() <= written.items()
        assert harm not in ("none", "add", "beginning") or found == written
        written = found
    assert len(again) == len(written)


def job(path, count=5):
    """Eleven numbers, of which one shard each is kept, and then a file of them all."""
    with Shards(path, SETTINGS) as shards:
        for number in range(count):
            if number not in shards:
                shards.write(number, b"%d " % number * 100)
    if count == 5:
        finished = Shards(path, SETTINGS)
        (path.parent / "made").write_bytes(b"".join(map(finished.read, range(5))))
        Shards.remove(path)


def test_killed_anywhere_goes_on(tmp_path):
    job(tmp_path / "whole" / "job")
    expected = (tmp_path / "whole" / "made").read_bytes()
    points = 0
    for points in kill_points(lambda: job(tmp_path / "killed" / "job")):
        if points % 2:  # else the next goes on with what two left
            job(tmp_path / "killed" / "job")
            assert (tmp_path / "killed" / "made").read_bytes() == expected
            assert os.listdir(tmp_path / "killed") == ["made"]
    assert points > 5


def test_other_settings_and_other_files_are_refused(tmp_path):
    path, part = tmp_path / "job", tmp_path / "job.part-0000"
    job(path, 3)
    content = part.read_bytes()
    with pytest.raises(ValueError, match=r"`model` 'a' then, 'b' now.*remove .*job\.part-\*"):
        Shards(path, SETTINGS | {"model": "b"})
    with pytest.raises(ValueError, match="`seed` None then, 1 now"):
        Shards(path, SETTINGS | {"seed": 1})
    with Shards(path, SETTINGS), pytest.raises(OutputInUseError, match="job.part-0000"):
        assert os.waitstatus_to_exitcode(in_child(lambda: job(path))) == 1
        raise OutputInUseError("job.part-0000")
    assert part.read_bytes() == content
    part.write_bytes(b"a file of somebody else\n")
    with pytest.raises(CorruptFileError, match="isn't a part of any job"):
        Shards(path, SETTINGS)
    assert part.read_bytes() == b"a file of somebody else\n"
    for name in ("job.part-1", "job.part-0000x", "other.part-0000"):  # none of this job
        (tmp_path / name).write_text("x")
    part.write_bytes(content)
    assert len(Shards(path, SETTINGS)) == 3
    Shards.remove(path)
    assert len(os.listdir(tmp_path)) == 3


def test_damage_is_named_and_done_again(tmp_path, caplog):
    path, part = tmp_path / "job", tmp_path / "job.part-0000"
    job(path, 3)
    content = part.read_bytes()
    place = content.index(b"1 1 1")
    shards = Shards(path, SETTINGS)
    part.write_bytes(content[:place] + b"7" + content[place + 1 :])
    with pytest.raises(CorruptFileError, match="Shard 1"):
        shards.read(1)
    assert [number in Shards(path, SETTINGS) for number in range(3)] == [True, False, True]
    assert "Shard 1 of" in caplog.text
    job(path)
    assert (tmp_path / "made").read_bytes() == b"".join(b"%d " % number * 100 for number in range(5))


def test_what_another_job_did_meanwhile_is_seen(tmp_path):
    path = tmp_path / "job"
    with Shards(path, SETTINGS) as shards:
        shards.write(0, b"zero")
    late, later = Shards(path, SETTINGS), Shards(path, SETTINGS)
    with Shards(path, SETTINGS) as shards:
        shards.write(1, b"one")
    with late:
        assert late.read(1) == b"one"
        late.write(2, b"two")
    assert [Shards(path, SETTINGS).read(number) for number in range(3)] == [b"zero", b"one", b"two"]
    Shards.remove(path)
    with later:
        assert 0 not in later
        later.write(0, b"anew")
    assert Shards(path, SETTINGS).read(0) == b"anew"


def test_a_full_disk_keeps_the_shards_before(tmp_path):
    path, part = tmp_path / "job", tmp_path / "job.part-0000"
    job(path, 2)
    size = part.stat().st_size

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
        with Shards(path, SETTINGS) as shards:
            try:
                shards.write(2, b"2 " * 100)
            finally:
                assert part.stat().st_size == size and 2 not in shards

    assert os.waitstatus_to_exitcode(in_child(fill)) == 3
    job(path)
    assert os.listdir(tmp_path) == ["made"] and issubclass(StorageError, OSError)
