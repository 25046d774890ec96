# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.

import pickle
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_hf.data import MalformedRows
from forge_hf.errors import MalformedRowsError


@given(
    batches=st.lists(st.lists(st.booleans(), min_size=1, max_size=30), max_size=12),
    max_rate=st.floats(0, 1),
    min_rows=st.integers(0, 60),
)
def test_stops_at_the_first_batch_above_the_rate(batches, max_rate, min_rows):
    malformed, flags = MalformedRows(max_rate, min_rows, num_shown=3), []
    for batch in batches:
        start = len(flags) + 1
        flags += batch
        malformed.seen(len(batch))
        lines = [start + place for place, bad in enumerate(batch) if bad]
        malformed.record(lines, [f"reason {line}" for line in lines])
        judged = len(flags) >= min_rows or max_rate == 0
        if judged and sum(flags) / len(flags) > max_rate:
            with pytest.raises(MalformedRowsError, match="max_rate"):
                malformed.check()
            return
        malformed.check()
        assert pickle.loads(pickle.dumps(malformed)).__dict__ == malformed.__dict__
    wrong = [line for line, bad in enumerate(flags, start=1) if bad]
    assert malformed.first == [(line, f"reason {line}") for line in wrong[:3]]
    assert (malformed.num_malformed, malformed.num_rows) == (len(wrong), len(flags))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if flags and len(wrong) / len(flags) > max_rate:
            with pytest.raises(MalformedRowsError):
                malformed.report()
            return
        malformed.report()
        malformed.report()
    assert len(caught) == bool(wrong)
    assert not wrong or f"line {wrong[0]}: reason {wrong[0]}" in str(caught[0].message)


def test_refuses_wrong_arguments():
    for arguments in ({"max_rate": -0.1}, {"max_rate": 2}, {"min_rows": -1}, {"num_shown": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            MalformedRows(**arguments)
    with pytest.raises(ValueError, match="reasons"):
        MalformedRows().record([1, 2], ["one"])
