"""Presets: files of plain data that fit the catalogue, each with words on what it is for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import toy_kinds
from ruamel.yaml import YAML

import hpo
from hpo import yamlfile
from search_spaces import HpoError, SearchSpace, catalogue, plugins, presets
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


LEFT_OUT = {
    "a further pass": "barlow consistency contractive functional_entropy imbsam jacobian"
    " mean_teacher mixed_barlow mutex sam serene vat vicreg",
    "factorises": "nuclear spectral whitening",
    "is for weights trained before": "ewc l2_to_start lwf",
    "goes against another of the list": "attentive_cutmix cutmix mixup norm_loss weight_compander",
    "is for few models, or asks something of the task": "bpe_dropout path_norm",
    "is for outputs that are pictures": "field_of_experts graph_laplacian sobolev tv",
}


def test_everything_has_all_regularizers_but_those_that_it_says() -> None:
    without = {name for names in LEFT_OUT.values() for name in names.split()}
    everything = presets.load("everything")
    for name in plugins.names(catalogue.REGULARIZERS):
        knobs = catalogue.load(name).knobs
        strengths = {knob for knob, domain in knobs.items() if domain.off is not None}
        assert strengths <= everything.keys() or name in without, name
        assert not (strengths & everything.keys() and name in without), name
    for kind in ("augment", "augment_series", "augment_tables", "augment_texts"):
        assert presets.load(kind).keys() <= everything.keys()


def test_the_name_of_a_knob_or_of_a_file_is_a_space() -> None:
    assert presets.resolve("mixup") == {"mixup": None}
    assert presets.resolve("augment.jitter") == {"augment.jitter": None}
    assert presets.resolve("elr_memory") == {"elr_memory": None}
    assert presets.resolve("elr") == {"elr": None}, "its strength, not what goes with it"
    assert list(presets.resolve("vicreg")) == [*catalogue.load("vicreg").knobs]
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


def outcome(space: str, kind: str, sampler: str, mlruns: Path) -> str:
    """What came of a short study: nothing to say, or the reason why it is refused."""
    try:
        result = hpo.run(
            f"{toy_kinds.__file__}:{toy_kinds.KINDS[kind].__name__}",
            space=space,
            sampler=sampler,
            trials=2,
            steps=12,
            workers=0,
            mlflow=False,
            mlruns=mlruns / f"{kind}-{sampler}",
            quiet=True,
        )
    except HpoError as error:
        assert error.hint, error.message
        return error.message
    assert math.isfinite(result.best.value)
    return ""


FITTING = {
    "augment": "grey",
    "augment_images": "grey",
    "augment_series": "series",
    "augment_texts": "transformer",
    "autoaugment": "cnn",
    "curriculum": "grey",
    "denoise": "restoring",
    "randaugment": "grey",
}
SCHEDULED, STIFF = "has a schedule to be searched between runs", "can tune none of"
REFUSED = {
    **{(name, "stn"): SCHEDULED for name in ("curriculum", "cyclical_data")},
    **{(name, "hypergrad"): SCHEDULED for name in ("curriculum", "cyclical_data")},
    ("regularization_curves", "stn"): SCHEDULED,
    ("regularization_curves", "hypergrad"): SCHEDULED,
    **{(name, "hypergrad"): STIFF for name in ("autoaugment", "randaugment", "augment_texts")},
    ("dropout", "hypergrad"): STIFF,
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "stn", "hypergrad"])
def test_a_preset_runs_end_to_end_or_is_refused_with_a_reason(
    name: str, sampler: str, tmp_path: Path
) -> None:
    why = outcome(name, FITTING.get(name, "mlp"), sampler, tmp_path)
    assert REFUSED.get((name, sampler), "") in why
    assert bool(why) == ((name, sampler) in REFUSED), why
