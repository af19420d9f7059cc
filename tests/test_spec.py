"""The spec of a study: what its keys take, how options lie over it, what a resumed one may change.

Errors are compared word by word with their place, because they are what a user works with.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import OBJECTIVES, SPACE, hpo, study_file, write

from hpo import preparation, problem, yamlfile
from hpo.errors import Conflict, HpoError, SpecError, Unavailable, exit_code, render
from hpo.overrides import KNOB_KEYS, override
from hpo.preparation import Launch
from hpo.spec import CHANGEABLE, StudySpec, from_mapping, parse
from search_spaces.domains import Choice, Float, Int

DIGITS = "name: a\nobjective: digits\n"
VALUE = f"name: a\nobjective: {OBJECTIVES}:value\n"


def spec(text: str, *sets: str) -> StudySpec:
    return parse(yamlfile.load("study.yaml", text), [override(one) for one in sets])


def refused(text: str, *sets: str) -> str:
    with pytest.raises(HpoError) as caught:
        spec(text, *sets)
    return render(caught.value)


# -- what keys take -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *(("90s", 90), ("20m", 1200), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), ("45", None)),
        *(("soon", None), ("0s", None), ("-5s", None), ("1h 30m", None), ("h", None), ("", None)),
    ],
)
def test_durations(written: str, seconds: float | None) -> None:
    text = f"{VALUE}budget: {{time: '{written}'}}\n"
    if seconds is None:
        assert "study.yaml:3:16: budget.time is" in refused(text)
    else:
        assert spec(text).budget.time == seconds


def test_a_duration_may_be_a_number_of_seconds() -> None:
    assert spec(f"{VALUE}budget: {{time: 90}}\n").budget.time == 90


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        *(("800MiB", 800 * 2**20), ("4GiB", 2**32), ("4GB", 2**32), ("2g", 2**31), ("7", None)),
        *(
            ("1.5G", 3 * 2**29),
            ("256MiB", 2**28),
            ("255MiB", None),
            ("lots", None),
            ("-1G", None),
            ("0", None),
        ),
        *(("9" * 400 + "G", None), ("900TiB", 900 * 2**40), ("2000TiB", None)),
    ],
)
def test_amounts_of_memory(written: str, amount: int | None) -> None:
    text = f"{VALUE}memory_per_trial: {written}\n"
    if amount is None:
        assert "study.yaml:3:19: memory_per_trial is" in refused(text)
    else:
        assert spec(text).memory_per_trial == amount


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("budget: {trials: many}", "3:18: budget.trials is 'many'; it must be a whole number"),
        ("budget: {trials: 3.0}", "3:18: budget.trials is 3.0; it must be a whole number"),
        ("budget: {trials: true}", "3:18: budget.trials is true; it must be a whole number"),
        ("budget: {trials: 0}", "3:18: budget.trials is 0; it must be at least 1"),
        ("budget: {trials: 1e9}", "3:18: budget.trials is 1000000000.0; it must be a whole"),
        ("budget: 20", "3:9: budget is 20; it must hold keys and values"),
        ("budget: {plateau: 0}", "3:19: budget.plateau is 0; it must be at least 1"),
        ("seed: -1", "3:7: seed is -1; it must be at least 0"),
        ("seed: 99999999999", "3:7: seed is 99999999999; it must be below 2147483648"),
        ("seeds: 0", "3:8: seeds is 0; it must be at least 1"),
        ("workers: two", "3:10: workers is 'two'; it must be a whole number"),
        ("gpus_per_trial: .nan", "3:17: gpus_per_trial is nan; it must be finite"),
        ("gpus_per_trial: .inf", "3:17: gpus_per_trial is inf; it must be finite"),
        ("gpus_per_trial: -1", "3:17: gpus_per_trial is -1; it must be at least 0"),
        ("retries: null", "3:10: retries is empty; it must be a whole number"),
        ("mlflow: on", "3:9: mlflow is 'on'; it must be true or false"),
        ("mlflow: 1", "3:9: mlflow is 1; it must be true or false"),
        ("sampler: 3", "3:10: sampler is 3; it must be text"),
        ("minimize: ''", "3:11: minimize is ''; it must not be empty"),
        ("space: 3", "3:8: space is 3; it must be a preset's name, a list of knobs, or knobs"),
        ("space: [1]", "3:8: space is [1]; it must be a preset's name, a list of knobs, or knobs"),
        ("prune: 3", "3:8: prune is 3; it must be a pruner's name, or its name with options"),
        ("fixed: 3", "3:8: fixed is 3; it must hold keys and values"),
        ("fixed: [a]", "3:8: fixed is ['a']; it must hold keys and values"),
        ("bugdet: {trials: 3}", "3:1: unknown key 'bugdet', did you mean 'budget'?"),
        ("budget: {trails: 3}", "3:10: unknown key 'trails', did you mean 'trials'?"),
        ("zzz: 3", "3:1: unknown key 'zzz'\n"),
        ("minimize: a\nmaximize: b", "4:11: minimize and maximize are both given"),
    ],
)
def test_a_wrong_value_is_told_with_line_column_and_what_is_allowed(line: str, error: str) -> None:
    told = refused(f"{VALUE}{line}\n")
    assert told.startswith(f"study.yaml:{error}")
    place = told.splitlines()
    assert place[1].endswith(line.splitlines()[-1]) and "^" in place[2]


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "-x", "a b", "a" * 101, "ä", "a:b"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    if name:
        assert "cannot be a folder name" in refused(f"name: '{name}'\nobjective: digits\n")
    else:
        assert spec("name: ''\nobjective: digits\n").name == "digits-tpe"


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("study.yaml", "objective: digits\n", "digits-tpe"),
        ("my-idea.yaml", "objective: digits\n", "my-idea"),
        ("-", "objective: my_tasks.vision:Faces\n", "Faces-tpe"),
        ("study.yaml", "objective: folder/file.py:f\nsampler: gp\n", "f-gp"),
        ("a b.yaml", "objective: digits\n", "digits-tpe"),
        ("x.yaml", "name: 2026-01-31\nobjective: digits\n", "2026-01-31"),
    ],
)
def test_a_study_without_a_name_gets_one(file: str, text: str, name: str) -> None:
    assert parse(yamlfile.load(file, text)).name == name


def test_a_file_without_an_objective_says_what_is_missing() -> None:
    for text in ("", "name: a\n"):
        assert refused(text).startswith("study.yaml: objective is missing\n")


# -- spaces, against the objective --------------------------------------------------------------


def told(text: str, *sets: str) -> str:
    """What is wrong with a spec that only its objective can tell."""
    source = yamlfile.load("study.yaml", text)
    overrides = [override(one) for one in sets]
    described = parse(source, overrides)
    with pytest.raises(HpoError) as caught:
        preparation.resolve(described, Launch(Path("mlruns")))
    from hpo.overrides import located

    return render(located(caught.value, source, overrides))


def test_a_misspelt_knob_is_told_as_promised() -> None:
    text = f"{DIGITS}space:\n  weight_decay: {{low: 1e-6, high: 1e-1}}\n\n\n"
    error = told(f"{text}  dropuot: {{low: 0, high: 0.7}}\n")
    assert error.splitlines()[:3] == [
        "study.yaml:7:3: unknown knob 'dropuot', did you mean 'dropout'?",
        "    7 |   dropuot: {low: 0, high: 0.7}",
        "      |   ^^^^^^^",
    ]
    assert error.splitlines()[3].startswith("like it: dropout, ")
    assert error.endswith("(hpo list regularizers)")


def test_log_of_zero_is_told_as_promised() -> None:
    error = told(f"{DIGITS}\n\nspace:\n  weight_decay: {{low: 0, high: 1e-1, scale: log}}\n")
    assert error.splitlines() == [
        "study.yaml:6:18: low 0 with scale log: the logarithm of 0 does not exist",
        "    6 |   weight_decay: {low: 0, high: 1e-1, scale: log}",
        "      |                  ^^^",
        'use scale: log+0 if "off" should be reachable, or a small low such as 1e-6',
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("space: {dropout: {low: 0.5, high: 0.1}}", "3:19: low 0.5 is above high 0.1"),
        ("space: {dropout: {low: '0', high: 1}}", "3:24: low '0' is text, a number is due"),
        ("space: {dropout: {lo: 0}}", "3:19: unknown key 'lo', did you mean 'low'?"),
        ("space: {dropout: {scale: lg}}", "3:26: unknown scale 'lg', did you mean 'log'?"),
        ("space: {dropout: 0.3}", "3:18: dropout: 0.3 is not a range"),
        ("space: {dropout: {high: .inf}}", "3:19: high is inf: only finite numbers"),
        ("space: {dropout: {high: 2}}", "3:25: high 2 is impossible for this knob"),
        ("space: {dropout: {when: {mixup: 1}}}", "3:26: unknown knob 'mixup'"),
        ("space: regularisation", "3:8: unknown space 'regularisation', did you mean"),
        ("space: [dropuot]", "3:9: unknown knob 'dropuot', did you mean 'dropout'?"),
        ("space: {}", "3:8: space is empty"),
        ("space: []", "3:8: space is empty"),
        ("fixed: {mixup: 7}", "3:16: fixed mixup is 7, outside 0..1"),
        ("fixed: {mixpu: 0.1}", "3:9: unknown knob 'mixpu', did you mean 'mixup'?"),
        ("fixed: {dropout: 0.1}", "3:9: knob 'dropout' is both searched and fixed"),
        ("sampler: tpee", "3:10: unknown sampler 'tpee', did you mean 'tpe'?"),
        ("sampler_options: {startup: 3}", "3:19: unknown option 'startup', did you mean"),
        ("sampler: brute_force", "3:10: sampler brute_force cannot search weight_decay"),
        ("prune: mediam", "3:8: unknown pruner 'mediam', did you mean 'median'?"),
        ("prune: {median: {startup: 1}}", "3:18: unknown option 'startup', did you mean"),
        ("engine: optunia", "3:9: unknown engine 'optunia', did you mean 'optuna'?"),
        ("training: {learning_rat: 1}", "3:12: training has no option 'learning_rat', did you"),
        ("training: {clip: -1}", "3:18: training: clip is -1"),
        ("objective_options: {hiden: 3}", "3:21: objective digits has no option 'hiden', did you"),
        ("objective_options: {hidden: many}", "3:29: objective digits: option hidden is 'many'"),
        ("tracking_uri: /tmp/runs", "3:15: tracking address '/tmp/runs': MLflow"),
    ],
)
def test_what_does_not_fit_the_objective_is_told_with_its_place(line: str, error: str) -> None:
    message = told(f"{DIGITS}{line}\n")
    assert message.startswith(f"study.yaml:{error}"), message


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("digitss", "unknown objective 'digitss', did you mean 'digits'?"),
        ("no_file.py:f", "objective no_file.py:f: no such file"),
        (f"{OBJECTIVES}:valeu", "has no 'valeu'; it defines"),
        ("no_module_of_this_name:f", "no module named no_module_of_this_name"),
        (f"{OBJECTIVES}:value", "is a function and names no knobs"),
    ],
)
def test_an_objective_that_is_not_there_is_told_at_its_value(reference: str, error: str) -> None:
    message = told(f"name: a\nobjective: {reference}\n")
    assert message.startswith("study.yaml:2:12: ") and error in message.splitlines()[0]


def test_something_not_available_keeps_its_exit_code_when_its_place_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    document = yamlfile.load("study.yaml", f"{VALUE}{SPACE}gpus_per_trial: 1\n")
    with pytest.raises(Unavailable) as caught:
        preparation.resolve(parse(document), Launch(Path("mlruns")))
    located = document.locate(caught.value)
    assert exit_code(located) == exit_code(caught.value) == 5
    assert render(located).startswith("study.yaml:5:17: ")


def test_the_space_an_objective_brings_must_be_one(tmp_path: Path) -> None:
    write(tmp_path / "odd.py", "def f(h, seed):\n    return 1.0\nf.space = {'x': (0, 1)}\n")
    assert "its attribute space is" in told(f"name: a\nobjective: {tmp_path / 'odd.py'}:f\n")


def test_a_model_that_raises_is_the_users_error(tmp_path: Path) -> None:
    lines = [
        "class T:",
        "    classes = 2",
        "    def model(self, seed):",
        "        raise KeyError(1)",
    ]
    lines += ["    def batches(self, split, rng): ...", "    def loss(self, model, batch): ..."]
    write(tmp_path / "task.py", "\n".join(lines))
    error = told(f"name: a\nobjective: {tmp_path / 'task.py'}:T\nspace: dropout\n")
    assert "model(0) raised KeyError: 1  (task.py:4)" in error


# -- options over the file ----------------------------------------------------------------------


def test_options_set_keys_by_path() -> None:
    found = spec(
        f"{VALUE}{SPACE}",
        *("budget.trials=8", "budget.time=20m", "sampler_options.startup_trials=3", "fixed.a.b=1"),
        *("space.x.high=0.5", "space.augment.rotate.low=1", "space.augment.rotate.high=25"),
        *("prune.median.startup_trials=2", "minimize=loss", "seed=7"),
    )
    assert found.budget.trials == 8 and found.budget.time == 1200
    assert found.space == {
        "x": {"low": 0, "high": 0.5},
        "augment.rotate": {"low": 1, "high": 25},
    }
    assert found.sampler_options == {"startup_trials": 3} and found.fixed == {"a.b": 1}
    assert found.prune == {"median": {"startup_trials": 2}}
    assert (found.metric, found.seed) == ("loss", 7)


@pytest.mark.parametrize(
    ("key", "value", "space"),
    [
        ("space.a.b", "{low: 0, high: 1}", {"a.b": {"low": 0, "high": 1}}),
        ("space.a.b.scale", "log", {"a.b": {"scale": "log"}}),
        ("space.a.scale.high", "3", {"a.scale": {"high": 3}}),
        ("space.a.b.c.options", "[1, 2]", {"a.b.c": {"options": [1, 2]}}),
        ("space.a.schedule.knots", "3", {"a": {"schedule": {"knots": 3}}}),
        ("space.a.b.when.c.d", "[1]", {"a.b": {"when": {"c.d": [1]}}}),
        ("space.a", "", {"a": None}),
        ("space.a.b", "", {"a.b": None}),
    ],
)
def test_a_path_finds_the_knob_whose_name_holds_dots(
    key: str, value: str, space: dict[str, Any]
) -> None:
    assert spec(f"{VALUE}space: {{}}\n", f"{key}={value}").space == space
    assert spec(VALUE.replace("\n", "\nspace:\n", 1), f"{key}={value}").space == space


def test_a_knob_of_the_file_wins_over_a_guess() -> None:
    text = f"{VALUE}space: {{a.high: {{low: 0, high: 1}}, a: {{low: 0, high: 1}}}}\n"
    assert spec(text, "space.a.high.high=3").space["a.high"] == {"low": 0, "high": 3}  # type: ignore[index, call-overload]


def test_the_words_that_end_a_knobs_name_are_the_keys_of_domains() -> None:
    fields = {f.name for kind in (Float, Int, Choice) for f in dataclasses.fields(kind)}
    assert fields - {"limits"} == KNOB_KEYS


def test_an_option_changes_one_knob_of_a_preset_and_keeps_the_others() -> None:
    space = spec(f"{DIGITS}space: noise\n", "space.dropout.high=0.5").space
    assert space == {"dropout": {"high": 0.5}, "input_noise": None}
    space = spec(f"{DIGITS}space: [mixup]\n", "space.dropout.high=0.5").space
    assert space == {"mixup": None, "dropout": {"high": 0.5}}


def test_a_goal_given_as_an_option_replaces_the_goal_of_the_file() -> None:
    found = spec(f"{VALUE}minimize: loss\n", "maximize=accuracy")
    assert (found.direction, found.metric) == ("maximize", "accuracy")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("budget.trials=0", "--set budget.trials=0: budget.trials is 0; it must be at least 1"),
        ("bugdet=3", "--set bugdet=3: unknown key 'bugdet', did you mean 'budget'?"),
        ("seed.x=3", "--set seed.x=3: seed is 1, which holds no keys"),
        ("budget=3", "--set budget=3: budget is 3; it must hold keys and values"),
        ("nonsense", "--set nonsense: write KEY=VALUE\nfor example --set budget.trials=8"),
        ("=3", "--set =3: write KEY=VALUE"),
        ("a..b=3", "--set a..b=3: write KEY=VALUE"),
    ],
)
def test_a_wrong_option_is_told_by_its_own_words(option: str, error: str) -> None:
    with pytest.raises(HpoError) as caught:
        spec(f"{VALUE}seed: 1\n", option)
    assert render(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("space.dropuot.low=0", "--set space.dropuot.low=0: unknown knob 'dropuot', did you mean"),
        ("space.dropout.hihg=1", "--set space.dropout.hihg=1: unknown key 'hihg', did you mean"),
        ("space.weight_decay.low=0", "--set space.weight_decay.low=0: low 0 with scale log"),
        ("sampler=tpee", "--set sampler=tpee: unknown sampler 'tpee', did you mean 'tpe'?"),
    ],
)
def test_what_an_option_broke_is_told_by_the_option(option: str, error: str) -> None:
    assert told(f"{DIGITS}space: regularization\n", option).startswith(error)


def test_the_files_own_mistake_stays_the_files() -> None:
    text = f"{DIGITS}space: {{dropuot: {{low: 0, high: 1}}}}\n"
    assert told(text, "space.mixup.high=0.5").startswith("study.yaml:3:9: unknown knob 'dropuot'")
    text = f"{DIGITS}space: regularisation\n"
    assert refused(text, "space.mixup.high=0.5").startswith("study.yaml:3:8: unknown space")


def test_the_last_option_counts_and_is_blamed() -> None:
    assert spec(VALUE, "seed=1", "seed=2").seed == 2
    assert refused(VALUE, "seed=1", "seed=-2").startswith("--set seed=-2: ")


# -- everything said, and said again ------------------------------------------------------------

FULL = f"""\
name: full
objective: {OBJECTIVES}:conditional
objective_options: {{}}
space:
  x: {{low: 1e-3, high: 1e-1, scale: log, start: 0.01, schedule: {{kind: linear, knots: 3}}}}
  optimizer: {{options: [adam, sgd]}}
  momentum: {{low: 0.5, high: 0.99, off: 0.5, when: {{optimizer: [sgd]}}}}
  layers: {{low: 1, high: 8, scale: int log}}
  zero: {{low: 0, high: 1, scale: log+0, size: 3}}
fixed: {{gamma: 0.9, act: relu, flag: true}}
sampler: tpe
sampler_options: {{startup_trials: 2}}
maximize: accuracy
budget: {{trials: 3, time: 1h, plateau: 2}}
prune: {{median: {{startup_trials: 1}}}}
seed: 5
seeds: 2
workers: 0
pack: 1
gpus_per_trial: 0
memory_per_trial: 2GiB
ray: {{cpus_per_trial: 2, resources: {{highmem: 1}}, runtime_env: {{env_vars: {{A: b}}}}}}
silence: 90s
retries: 1
storage: sqlite:///ledger.db
tracking_uri: http://localhost:5000
mlflow: false
"""


def test_the_printed_spec_is_a_study_file_that_says_the_same(tmp_path: Path) -> None:
    first = hpo("check", write(tmp_path / "a.yaml", FULL), "--print-spec")
    again = hpo("check", write(tmp_path / "b.yaml", first.out), "--print-spec")
    assert first.code == again.code == 0
    assert first.out == again.out
    one, other = (parse(yamlfile.load(tmp_path / name)) for name in ("a.yaml", "b.yaml"))
    ours = preparation.resolve(one, Launch(tmp_path)).spec
    assert preparation.resolve(other, Launch(tmp_path)).spec.plain() == ours.plain()
    unsaid = {"minimize", "training", "engine"}  # with maximize, a function, one engine
    assert set(StudySpec.model_fields) == set(yamlfile.load("f", FULL).data) | unsaid


def test_the_printed_spec_of_a_task_spells_out_training_and_options(tmp_path: Path) -> None:
    text = f"{DIGITS}budget: {{trials: 2}}\ntraining: {{optimizer: sgd}}\n"
    first = hpo("check", write(tmp_path / "a.yaml", text), "--print-spec")
    found = yamlfile.load("f", first.out).data
    assert found["training"]["optimizer"] == "sgd" and "learning_rate" in found["training"]
    assert found["budget"]["steps"] > 0 and found["objective_options"]["train_rows"] == 300
    assert found["space"]["dropout"]["high"] == 0.7 and found["minimize"] == "val_loss"
    again = hpo("check", write(tmp_path / "b.yaml", first.out), "--print-spec")
    assert again.out == first.out


def test_a_printed_spec_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = hpo("check", study_file(tmp_path), "--print-spec").out
    ended = hpo("run", "-", "--json", stdin=printed.encode())
    assert ended.code == 0, ended.err
    assert yamlfile.load("f", printed).data["seed"] == 0


# -- resuming -----------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of three trials, and its file."""
    monkeypatch.chdir(tmp_path)
    file = study_file(tmp_path, "seed: 0\nsampler: random\n")
    assert hpo("run", file, "-q").code == 0
    return file


@pytest.mark.parametrize(
    "changes",
    [
        ["--trials", "4"],
        ["--time", "1h", "--plateau", "50"],
        ["--workers", "1", "--set", "retries=0", "--set", "memory_per_trial=8GiB"],
        ["--set", "space.x.start=0.7"],
        ["--set", "minimize=val_loss"],
        ["--name", "s"],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_resumed_study_may_change_how_much_and_where(begun: Path, changes: list[str]) -> None:
    for source in ([begun], []):
        ended = hpo("run", *source, "--resume", *changes, "-q")
        assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1", "study s was started with seed 0, not 1"),
        ("sampler=tpe", "study s was started with sampler 'random', not 'tpe'"),
        ("space.x.high=2", "study s was started with knob x in '0..1', not '0..2'"),
        ("space.y={low: 0, high: 1}", "study s was started with knob y in 'nothing', not '0..1'"),
        ("maximize=val_loss", "with goal 'minimize val_loss', not 'maximize val_loss'"),
        (f"objective={OBJECTIVES}:flat", "study s was started with objective"),
        ("prune=median", "study s was started with prune 'none', not 'median'"),
        ("seeds=2", "study s was started with seeds 1, not 2"),
        ("fixed.z=1", "study s was started with fixed {}, not {'z': 1}"),
        ("storage=sqlite:///x.db", "study s was started with storage None"),
        ("budget.steps=9", "trains its default number of steps a trial, not 9"),
    ],
)
def test_a_resumed_study_may_not_change_what_it_is(begun: Path, change: str, said: str) -> None:
    for source in ([begun], []):
        ended = hpo("run", *source, "--resume", "--set", change, "-q")
        assert ended.code == 2 and said in ended.err and ended.out == ""
        assert "choose another --name" in ended.err
    assert hpo("run", begun, "--resume", "-q").code == 0


def test_a_study_that_has_begun_starts_from_nowhere_else(begun: Path) -> None:
    ended = hpo("run", begun, "--resume", "--start-from", "s")
    assert ended.code == 2 and "--start-from: study s has begun" in ended.err


def test_what_may_change_names_keys_of_the_spec() -> None:
    assert set(StudySpec.model_fields) >= CHANGEABLE


# -- nothing but HpoError -----------------------------------------------------------------------

KEYS = st.sampled_from([*StudySpec.model_fields, "trials", "low", "x", "steps", "linear"])
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["digits", "tpe", "regularization", "1h", "2GiB", "median", "none", "log"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS | st.text(max_size=5), JUNK, max_size=5))
def test_any_mapping_is_a_spec_or_an_hpo_error(data: dict[str, Any]) -> None:
    try:
        found = from_mapping(data)
    except HpoError as error:
        assert str(error) and exit_code(error) == 2
    else:
        assert found.name and found.objective


RANGE = st.sampled_from(["low", "high", "scale", "start", "size", "off", "schedule", "when"])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "augment.z"]) | st.text(max_size=3),
        JUNK | st.dictionaries(RANGE | st.just("options"), JUNK, max_size=4),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["x", "z"]), JUNK, max_size=2),
)
def test_any_space_is_one_or_an_hpo_error(space: dict[str, Any], fixed: dict[str, Any]) -> None:
    described = {"objective": f"{OBJECTIVES}:value", "space": space, "fixed": fixed}
    try:
        problem.load(from_mapping(described))
    except HpoError as error:
        assert str(error) and not isinstance(error, Conflict | SpecError)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(KEYS | st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=4),
            st.text(max_size=10) | st.sampled_from(["{low: 0}", "[1]", "null", "3", "digits"]),
        ),
        max_size=3,
    )
)
def test_any_options_are_laid_over_or_an_hpo_error(options: list[tuple[list[str], str]]) -> None:
    try:
        spec(f"{VALUE}{SPACE}", *(f"{'.'.join(path)}={value}" for path, value in options))
    except HpoError as error:
        assert render(error)
