"""Seeds of one network are not judged by the truth of another."""

import pytest

from benchmarks import accuracy_network


@pytest.mark.any_dtype
def test_seeds_of_another_network_are_not_added_to(tmp_path, monkeypatch):
    held = tmp_path / "seeds.csv"
    row = {"state": "trained", "point": "former", "seed": 0, "revision": "abc"}
    accuracy_network.add_row(held, row)
    monkeypatch.setattr(accuracy_network, "RESULTS", held)
    monkeypatch.setattr(accuracy_network, "point", lambda state: "present")
    with pytest.raises(SystemExit, match=r"'trained'.*another network.*\(present\).*revision, abc"):
        accuracy_network.add_seeds("trained", 1)
    assert accuracy_network.read() == [{name: str(value) for name, value in row.items()}]


@pytest.mark.any_dtype
def test_every_kept_seed_has_the_truth_of_its_network():
    truths = {row["point"] for row in accuracy_network.read(accuracy_network.TRUTHS)}
    rows = [*accuracy_network.read(), *accuracy_network.read(accuracy_network.BEFORE)]
    assert len(rows) > 1000
    assert {row["point"] for row in rows} == truths
