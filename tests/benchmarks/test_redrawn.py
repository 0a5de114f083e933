"""Pages of which some methods are drawn again: the rows of the others stay where they were."""

from benchmarks.redrawn import drawn_at, text_of, with_others

HEAD = "| method | error |\n|---|---|"
OTHER = "| method | p |\n|---|---|"
ORDER = ["plain", "auto", "more"]
PAGE = (
    "# A study\n\nBy a command. Drawn: `plain` at revision abc123, `auto` at revision abc123+.\n\n"
    f"{HEAD}\n| plain | 1 |\n| plain | 2 |\n| auto | 3 |\n\n"
    f"## Calls\n\n{OTHER}\n| plain | .5 |\n| auto | .6 |\n"
)


def test_new_rows_take_the_places_of_the_old_of_their_method():
    found = with_others(PAGE, HEAD, ["| auto | 4 |", "| auto | 5 |"], ["auto"], ORDER)
    assert found == f"{HEAD}\n| plain | 1 |\n| plain | 2 |\n| auto | 4 |\n| auto | 5 |"
    assert with_others(PAGE, OTHER, ["| plain | .7 |"], ["plain"], ORDER) == (
        f"{OTHER}\n| plain | .7 |\n| auto | .6 |"
    )


def test_a_method_without_rows_of_its_own_has_none_left():
    assert with_others(PAGE, OTHER, [], ["auto"], ORDER) == f"{OTHER}\n| plain | .5 |"


def test_a_page_that_is_not_there_has_the_new_rows_alone(tmp_path):
    text = text_of(tmp_path / "none.md")
    assert text == text_of(None) == ""
    assert with_others(text, HEAD, ["| more | 1 |"], ["more"], ORDER) == f"{HEAD}\n| more | 1 |"


def test_each_method_is_of_the_revision_at_which_it_was_drawn_last():
    assert drawn_at(PAGE, ["auto"], "def456", ORDER) == (
        "Drawn: `plain` at revision abc123, `auto` at revision def456."
    )
    assert drawn_at("", ["more"], "def456", ORDER) == "Drawn: `more` at revision def456."
