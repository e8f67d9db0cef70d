"""The atlas: every pattern once, words that fit the films, and sources for what is claimed."""

from __future__ import annotations

import pytest

from fracture.atlas import SOURCES, Entry, entries
from fracture.simulate import PATTERNS, Settings, simulate

ENTRIES = entries()


def test_every_pattern_of_the_simulator_has_its_entry() -> None:
    assert sorted(entry.pattern for entry in ENTRIES) == sorted(PATTERNS)
    for entry in ENTRIES:
        assert entry.settings.pattern == entry.pattern
        assert entry.label == entry.settings.label
    labels = [entry.label for entry in ENTRIES]
    assert labels == sorted(labels, key=["Simple", "Comminuted", "No fracture"].index)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.pattern)
def test_an_entry_says_all_and_names_its_sources(entry: Entry) -> None:
    for text in (entry.definition, entry.trap, *entry.look_for):
        assert text.endswith(".") and len(text) > 20
    assert set(entry.sources) <= set(SOURCES)
    assert bool(entry.sources) == (entry.pattern != "intact")
    small = Settings(**vars(entry.settings) | {"size": 128})
    film = simulate(small)
    kind = entry.type.split(":")[0]
    if "child" in kind:
        assert film.ao_code.endswith("/2.1") and "2.1" in entry.type
    elif entry.pattern != "intact":
        assert film.ao_code[-2:] == kind  # the film shown is what the words say
    else:
        assert film.ao_code == ""


def test_sources_can_be_looked_up() -> None:
    assert all("doi:10." in source for source in SOURCES.values())
