"""A cache that is damaged makes its entries again, and one that grows old is cut."""

from __future__ import annotations

import os
import time

import pytest
import torch

from differseg_med.runs import cache


def test_made_once(tmp_path):
    made = []

    def make() -> dict:
        made.append(1)
        return {"image": torch.arange(3.0), "channels": ("t1", "ct"), "case_id": "a"}

    first, second = (cache.cached(tmp_path / "cache", "key", make) for _ in range(2))
    assert len(made) == 1
    assert torch.equal(first["image"], second["image"])
    assert (first["channels"], first["case_id"]) == (second["channels"], second["case_id"])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"x" * 5000, None])
def test_a_damaged_entry_is_a_miss(tmp_path, damage, caplog):
    cache.cached(tmp_path, "key", lambda: torch.zeros(50))
    path = tmp_path / "key.pt"
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    assert torch.equal(cache.cached(tmp_path, "key", lambda: torch.ones(2)), torch.ones(2))
    assert "damaged" in caplog.text
    assert torch.equal(cache.cached(tmp_path, "key", lambda: None), torch.ones(2))


def test_the_bound(tmp_path):
    now, day = time.time(), 86400
    for name, age in {"new": 0, "yesterday": 2 * day, "old": 6 * day, "ancient": 8 * day}.items():
        (tmp_path / f"{name}.pt").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.pt", (now - age, now - age))
    assert cache.prune(tmp_path) == 1
    assert not (tmp_path / "ancient.pt").exists()
    assert cache.prune(tmp_path, limit=250) == 1
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "yesterday"]
    cache.prune(tmp_path, limit=0)
    assert [path.stem for path in tmp_path.iterdir()] == ["new"]  # in use
    assert cache.prune(tmp_path / "nowhere") == 0
