from hypothesis import given
from hypothesis import strategies as st

from components.launch_train.log_lines import Unseen, split

# Times as (second, tenth); several lines may have the same.
TIMES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30)


@given(TIMES, st.lists(st.integers(0, 30), max_size=4), st.booleans())
def test_a_log_that_breaks_off_anywhere_is_shown_once_and_whole(times, breaks, is_all_repeated):
    lines = [
        f"2026-01-01T00:00:{second:02}{'.' + str(tenth) if tenth else ''}Z line {index}"
        for index, (second, tenth) in enumerate(sorted(times))
    ]
    unseen, shown, reached = Unseen(), [], 0
    for end in [*sorted(breaks), len(lines)]:
        # A stream begins with the second of the last line that was seen, or before.
        second = lines[max(reached - 1, 0)][:19]
        begin = next(index for index, line in enumerate(lines) if line[:19] >= second)
        shown += unseen.of(lines[0 if is_all_repeated else begin : end])
        reached = max(reached, min(end, len(lines)))

    assert shown == [f"line {index}" for index in range(len(lines))]


def test_lines_without_a_time_are_passed_on():
    assert list(Unseen().of(["no time", ""])) == ["no time", ""]


def test_times_of_different_zones_and_lengths_can_be_compared():
    earlier, _ = split("2026-01-01T01:00:00.09+01:00 x")
    later, text = split("2026-01-01T00:00:00.1Z a b")

    assert earlier < later
    assert text == "a b"
