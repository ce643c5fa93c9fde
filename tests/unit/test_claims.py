"""Items of a pass are computed once each, by whichever rank claims them first."""

from hpc.claims import Claims


def ranks(folder, size):
    found = [Claims(folder / "claims", rank, size) for rank in range(size)]
    found[0].prepare()
    return found


def everything(name):
    return True


NAMES = {f"item-{k}": 1 for k in range(7)}


def test_a_rank_begins_with_its_share_and_then_takes_items_of_others(tmp_path):
    first, second, third = ranks(tmp_path, 3)
    slow, quick = second.take(NAMES, everything), first.take(NAMES, everything)
    assert next(slow) == 1
    assert list(quick) == [0, 3, 6, 2, 4, 5]
    assert list(slow) == list(third.take(NAMES, everything)) == []


def test_large_items_come_first_in_both_parts(tmp_path):
    first, second = ranks(tmp_path, 2)
    assert first.order([1, 9, 5, 2, 7]) == [4, 2, 0, 1, 3]
    assert second.order([1, 9, 5, 2, 7]) == [1, 3, 4, 2, 0]


def test_finished_items_are_left_out(tmp_path):
    first, second = ranks(tmp_path, 2)
    assert list(second.take(NAMES, {"item-3", "item-4"}.__contains__)) == [3, 4]
    assert list(first.take(NAMES, {"item-3", "item-4"}.__contains__)) == []


def test_no_rank_takes_items_after_the_end(tmp_path):
    first, second = ranks(tmp_path, 2)
    taken = second.take(NAMES, everything)
    assert next(taken) == 1
    first.end()
    assert list(taken) == list(first.take(NAMES, everything)) == []


def test_claims_of_an_earlier_pass_do_not_count(tmp_path):
    for _ in range(2):
        first, _second = ranks(tmp_path, 2)
        assert len(list(first.take(NAMES, everything))) == 7


def test_one_process_needs_no_files(tmp_path):
    (alone,) = ranks(tmp_path, 1)
    assert list(alone.take(NAMES, everything)) == list(range(7))
    alone.end()
    assert not (tmp_path / "claims").exists()
