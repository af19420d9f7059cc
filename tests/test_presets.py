"""Presets: files of plain data that fit the catalogue, each with words on what it is for."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from hpo import yamlfile
from search_spaces import HpoError, SearchSpace, catalogue, presets
from search_spaces.domains import Float, Form


@pytest.fixture(params=presets.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_preset_fits_the_catalogue_and_is_global(name: str) -> None:
    knobs = catalogue.knobs()
    space = SearchSpace.parse(name, knobs)
    assert len(space) > 0
    for knob, domain in space.items():
        assert domain.size == knobs[knob].size, "one strength for all layers unless a user asks"


def test_a_preset_says_what_it_is_for(name: str) -> None:
    lines = presets.text(name).splitlines()
    comment = lines[: lines.index(next(line for line in lines if not line.startswith("#")))]
    assert presets.about(name) == comment[0].removeprefix("# ") and len(presets.about(name)) > 15
    assert comment[1] == "#" and len(comment) > 2 and max(map(len, lines)) <= 100
    assert not presets.about(name).endswith(".")


def test_a_study_file_reads_a_preset_as_it_is(name: str) -> None:
    text = "space:\n" + "".join(f"  {line}\n" for line in presets.text(name).splitlines())
    assert yamlfile.load("study.yaml", text).data["space"] == presets.load(name)


def test_a_preset_is_plain_data(name: str) -> None:
    assert not {"!", "&", "*"} & set(presets.text(name).replace("# ", "").replace("**", ""))
    assert YAML(typ="safe").load(presets.text(name)) == presets.load(name)


def test_the_four_most_used_regularizers_stay_what_they_are() -> None:
    four = {"weight_decay", "dropout", "input_noise", "label_smoothing"}
    assert presets.load("regularization") == dict.fromkeys(four)
    curves = SearchSpace.parse("regularization_curves", catalogue.knobs())
    assert curves.keys() == four
    assert {domain.schedule for domain in curves.values()} == {Form("cubic", 3)}


def test_the_name_of_a_knob_or_of_a_file_is_a_space() -> None:
    assert presets.resolve("mixup") == {"mixup": None}
    assert presets.resolve("augment.jitter") == {"augment.jitter": None}
    assert presets.resolve("cutout_probability") == {"cutout_probability": None}
    assert presets.resolve("cutout") == {"cutout": None}, "its strength, not what goes with it"
    own = {"rate": Float(0, 1), "dropout": Float(0, 1)}
    assert SearchSpace.parse("rate", own)["rate"] == own["rate"]
    for record in catalogue.names():
        assert presets.resolve(record)


def test_an_unknown_name_is_met_with_the_likely_one() -> None:
    with pytest.raises(HpoError, match="unknown space 'mixupp', did you mean 'mixup'") as error:
        presets.resolve("mixupp")
    assert "known: augment" in error.value.hint and error.value.code == "unknown-space"
    with pytest.raises(HpoError, match="unknown space"):
        presets.text("../presets/noise")
