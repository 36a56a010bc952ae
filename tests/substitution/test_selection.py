import pytest

from src.substitution.selection import selected_count


@pytest.mark.parametrize(
    ("share", "count"), [(3, 3), (10, 10), (0.5, 5), (0.47, 5), (0.01, 1), (0.99, 10)]
)
def test_a_share_is_a_number_or_a_fraction(share, count, caplog):
    assert selected_count(share, 10) == count
    assert not caplog.text


def test_more_than_there_is_takes_all_and_says_so(caplog):
    assert selected_count(11, 10) == 10
    assert "The pool has 10 images, 11 were asked for" in caplog.text
