"""What of a space fits a task: a ready-made one leaves out the rest, one's own is refused.

Run with: pytest tests/test_fitting.py
"""

from pathlib import Path
from typing import Any

import pytest

import hpo
from hpo import problem
from hpo.errors import HpoError
from hpo.spec import from_mapping

SMALL = {"train_rows": 60}


def loaded(space: Any, **more: Any) -> problem.Problem:
    said = {"name": "x", "objective": "digits", "sampler": "tpe", "space": space}
    return problem.load(from_mapping({**said, "objective_options": SMALL, **more}))


def test_a_ready_made_space_leaves_out_what_the_task_refuses() -> None:
    found = loaded("everything")
    assert "augment.rotate" in found.space
    assert not {"augment.jitter", "augment.scaling", "attention_entropy"} & {*found.space}
    assert not {"augment.jitter", "augment.scaling", "attention_entropy"} & {*found.regularizers}
    (series,) = (note for note in found.notes if "augment.jitter" in note)
    assert "augment.scaling" in series and "left out: needs inputs of shape (B, C, T)" in series
    assert "attention_entropy ignored: this model has no attention layers" in found.notes


def test_a_fixed_strength_is_tried_at_its_value() -> None:
    found = loaded("labels", fixed={"input_noise": 0.1, "elr": 1.0})
    assert {"input_noise", "elr"} <= {*found.regularizers}
    assert not [note for note in found.notes if "input_noise" in note or "elr" in note]


def test_a_space_of_which_nothing_fits_is_refused_with_the_reasons() -> None:
    with pytest.raises(HpoError, match="nothing of space tv fits objective digits") as error:
        loaded("tv")
    assert "pictures" in error.value.hint
    assert [*loaded("denoise").space] == ["weight_decay"]


@pytest.mark.parametrize(
    ("given", "key", "reason"),
    [
        ({"space": ["l2", "tv"]}, ("space", "tv"), "pictures"),
        ({"space": ["tv", "sobolev", "l2"]}, ("space", "sobolev"), "leave out sobolev, tv"),
        ({"space": ["l2"], "fixed": {"distillation": 0.5}}, ("fixed", "distillation"), "teacher"),
    ],
)
def test_what_a_study_names_itself_is_refused_before_a_trial(
    tmp_path: Path, given: dict[str, Any], key: tuple[str, str], reason: str
) -> None:
    with pytest.raises(HpoError, match=reason) as error:
        hpo.run(
            "digits", name="x", objective_options=SMALL, sampler="tpe", trials=1, steps=3,
            workers=0, mlflow=False, mlruns=tmp_path, **given,
        )  # fmt: skip
    assert error.value.path == key and f"leave out {key[1]}" in error.value.hint
    assert not (tmp_path / "studies" / "x").exists()


def test_trying_leaves_the_task_and_the_generators_as_they_were() -> None:
    import torch

    before = torch.get_rng_state()
    first, again = loaded("noisy_labels"), loaded("noisy_labels")
    assert torch.equal(torch.get_rng_state(), before)
    assert first.notes == again.notes and first.space == again.space


def test_check_tells_what_the_task_refuses_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shell import hpo as shell

    monkeypatch.chdir(tmp_path)
    ended = shell("check", "--objective", "digits", "--set", "space=[l2, tv]")
    assert ended.code == 2 and "pictures" in ended.err and "leave out tv" in ended.err
    assert "Traceback" not in ended.err + ended.out


def test_augmentation_of_inputs_alone_is_refused_where_targets_are_pictures() -> None:
    with pytest.raises(HpoError, match="nothing of space augment_images fits") as error:
        loaded("augment_images", objective="denoise", objective_options={})
    assert "place by place" in error.value.hint


def test_a_fixed_strength_that_is_refused_ends_a_ready_made_space_too() -> None:
    with pytest.raises(HpoError, match="teacher") as error:
        loaded("noise", fixed={"distillation": 0.5})
    assert error.value.path == ("fixed", "distillation")
    assert "leave out distillation" in error.value.hint
