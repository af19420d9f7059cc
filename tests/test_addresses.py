"""Files, databases and servers a study names: the same from everywhere, told without passwords."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from shell import hpo, study_file
from studies import X, resume, run, spec

from hpo import preparation, reference
from hpo import storage as storages
from hpo.cli import _spec
from hpo.cli.init import command as init
from hpo.console import Console
from hpo.errors import HpoError
from hpo.folder import Folder, read_spec, write_spec
from hpo.masking import without_password
from hpo.overrides import override
from hpo.preparation import Launch, prepare
from hpo.result import read
from hpo.schedulefile import find
from hpo.summary import closing
from hpo.tracking import without_login
from hpo.wording import mlruns_option

SECRET = "p@ss@word"
SERVER = f"http://me:{SECRET}@127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SERVER, "http://me:***@127.0.0.1:9"),
        ("--storage postgresql://u:a b@c/d@host/x", "--storage postgresql://u:***@host/x"),
        ("http://token@host:5000", "http://***@host:5000"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("mysql://h/d?user=u&password=s&ssl=1", "mysql://h/d?user=u&password=***&ssl=1"),
        ("http://host:5000\nask me@home", "http://host:5000\nask me@home"),
    ],
)
def test_password_is_masked(text: str, told: str) -> None:
    assert without_password(text) == told


def test_nothing_that_is_told_holds_a_password(
    quick: None, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = spec(mlflow=True, tracking_uri=SERVER, space=X)
    _, folder, problem = prepare(described, Launch(mlruns))
    assert problem.spec.tracking_uri == SERVER and problem.spec.secret
    Console("json", "val_loss", "minimize").header(problem, folder.path, mlruns, "")
    result = run(mlruns, trials=1, space=X)
    object.__setattr__(result, "spec", problem.spec)
    told = capsys.readouterr().out + "\n".join(closing(result)) + str(problem.spec.shown())
    told += override(f"storage={SERVER}").origin
    told += _spec.overrides((), {"storage": SERVER})[0].origin
    assert "ss@word" not in told and told.count("http://me:***@127.0.0.1:9") == 5
    with pytest.raises(HpoError) as caught:
        preparation.resolve(spec(mlflow=True, tracking_uri=f"ftp://u:{SECRET}@h"), Launch(mlruns))
    assert "word" not in f"{caught.value} {caught.value.found}"


DATABASE = "postgresql://u:hid%den@h/d"


@pytest.mark.parametrize(
    ("line", "arguments", "code"),
    [
        (f"storage: [{DATABASE}]", ["check"], 2),
        (f"storage: '{DATABASE}", ["check"], 2),
        (f"storage: {DATABASE}\nstorage: {DATABASE}", ["check"], 2),
        (f"{{storage: {DATABASE}}}: 1", ["check"], 2),
        (f"storrage: {DATABASE}", ["check"], 2),
        (f"storage: nothing+{DATABASE}", ["check", "--no-probe"], 2),
        (f"objective_options: {DATABASE}", ["check"], 2),
        ("", ["check", "--set", f"storage=[{DATABASE}"], 2),
        (f"storage: {DATABASE}", ["check", "--set", "storage.x=1"], 2),
        ("tracking_uri: ftp://u:hid%den@h\nmlflow: true", ["run"], 2),
        (f"tracking_uri: {SERVER}\nmlflow: true", ["check", "--no-probe"], 0),
        (f"tracking_uri: {SERVER}\nmlflow: true", ["check", "--print-spec"], 0),
        (f"tracking_uri: {SERVER}\nmlflow: true", ["run", "--dry-run"], 0),
    ],
)
def test_no_password_of_a_study_file_is_shown(
    line: str, arguments: list[str], code: int, tmp_path: Path
) -> None:
    file = study_file(tmp_path, f"{line}\n")
    for more in ([], ["--json"], ["--traceback"]):
        ended = hpo(arguments[0], file, *arguments[1:], *more, "--mlruns", tmp_path / "runs")
        assert ended.code == code, ended.both
        told = ended.both.replace(str(file), "").replace("hpo doctor", "")
        assert "den@" not in told and "ss@word" not in told, told
    if "--print-spec" in arguments:
        assert told.startswith("# passwords are masked") and "http://me:***@127" in told


def test_a_caret_points_at_what_it_means_beside_a_mask(tmp_path: Path) -> None:
    """Where the mask would move it, no line is shown."""
    file = study_file(tmp_path, f"storage: [{DATABASE}]\n")
    shown = hpo("check", file).err.splitlines()
    assert shown[1].endswith("storage: [postgresql://u:***@h/d]")
    assert shown[2].index("^") == shown[1].index("[")
    file = study_file(tmp_path, f"fixed: {{a: '{DATABASE}', b: {{c: 1}}}}\n")
    assert "postgresql" not in hpo("check", file).err


def test_stored_spec_with_a_password_is_for_its_owner(tmp_path: Path) -> None:
    for address, mode in ((SERVER, 0o600), ("http://host:5000", 0o644)):
        folder = Folder(tmp_path / "s")
        write_spec(folder, spec(tracking_uri=address))
        assert folder.spec.stat().st_mode & 0o777 == mode
        assert read_spec(folder).tracking_uri == address


def test_relative_database_stays_where_it_was(
    quick: None, mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = {"storage": "sqlite:///x.db", "tracking_uri": "sqlite:///y.db", "mlflow": True}
    problem = preparation.resolve(spec(space=X, **relative), Launch(mlruns))
    assert problem.spec.tracking_uri == f"sqlite:///{tmp_path}/y.db"
    result = run(mlruns, trials=1, storage="sqlite:///x.db", space=X)
    assert result.spec.storage == f"sqlite:///{tmp_path}/x.db"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(result.folder).ended == 1
    (tmp_path / "x.db").rename(tmp_path / "moved.db")
    with pytest.raises(HpoError, match="no such file"):
        read(result.folder)
    with pytest.raises(HpoError, match="no such file"):
        resume(mlruns, trials=2)
    assert not (tmp_path / "x.db").exists()
    storages.remote(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(HpoError, match="study s has begun, but its trials are not in sqlite"):
        resume(mlruns, trials=2)


def test_a_new_study_goes_where_the_environment_says_and_stays_there(
    quick: None, mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    _, _, problem = prepare(spec(mlflow=True, space=X), Launch(mlruns))
    assert problem.spec.tracking_uri == "http://127.0.0.1:9"
    given = spec(mlflow=True, space=X, tracking_uri="http://host:5000")
    assert prepare(given, Launch(mlruns))[2].spec.tracking_uri == "http://host:5000"
    assert prepare(spec(space=X), Launch(mlruns))[2].spec.tracking_uri is None
    local = Folder(mlruns / "studies" / "s")
    write_spec(local, spec(mlflow=True, space=X))
    _, _, problem = prepare(spec(mlflow=True, space=X), Launch(mlruns, True))
    assert problem.spec.tracking_uri is None


def test_a_place_in_the_environment_that_keeps_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://u:{SECRET}@h/mlruns")
    file = study_file(tmp_path, "mlflow: true\n")
    ended = hpo("run", file, "--mlruns", tmp_path / "runs")
    assert ended.code == 2 and ended.err.startswith("MLFLOW_TRACKING_URI: tracking address 'file:")
    assert "unset it, choose another with --tracking-uri, or use --no-mlflow" in ended.err
    assert "word" not in ended.both.replace(str(tmp_path), "")
    assert hpo("run", file, "--mlruns", tmp_path / "runs", "--no-mlflow").code == 0


def test_the_header_says_where_runs_are_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    file, runs = study_file(tmp_path, "mlflow: true\n"), tmp_path / "runs"
    said = hpo("run", file, "--dry-run", "--mlruns", runs).out
    assert "mlflow      http://me:***@127.0.0.1:9  (MLFLOW_TRACKING_URI)\n" in said
    said = hpo("run", file, "--dry-run", "--mlruns", runs, "--tracking-uri", "http://host:1").out
    assert "mlflow      http://host:1\n" in said


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (SERVER, "http://127.0.0.1:9"),
        ("http://u:p/w@host:5000/prefix", "http://host:5000/prefix"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a@b/mlflow.db", "sqlite:////a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_the_place_of_a_server_has_no_login(address: str, place: str) -> None:
    assert without_login(address) == place


@pytest.mark.parametrize(
    ("url", "said"),
    [("foo", "URL"), ("nosuch://u:pw@h/x", "nosuch"), ("oracle+oracledb://u:pw@h/x", "oracledb")],
)
def test_database_is_refused_before_anything_runs(url: str, said: str, mlruns: Path) -> None:
    with pytest.raises(HpoError, match=said) as caught:
        prepare(spec(storage=url, space=X), Launch(mlruns))
    assert caught.value.path == ("storage",) and "pw@" not in str(caught.value)
    assert not mlruns.exists()


def test_objective_is_beside_its_study_file(
    quick: None, mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "def f(h, seed):\n    return h(1)['x']\n"
    (tmp_path / "func").mkdir()
    Path("func/o.py").write_text(text)
    Path("func/study.yaml").write_text("objective: o.py:f\nspace: {x: {low: 0, high: 1}}\n")

    def given(source: str, **options: object) -> str:
        return _spec.given(source, (), options).spec().objective

    assert given("func/study.yaml") == "func/o.py:f"
    assert given("func/study.yaml", objective="o.py:f") == "o.py:f"
    assert given(str(tmp_path / "func" / "study.yaml")) == f"{tmp_path}/func/o.py:f"
    described = _spec.given("func/study.yaml", (), {"name": "s"}).spec()
    _, folder, problem = prepare(described, Launch(mlruns))
    write_spec(folder, problem.spec)
    assert f"objective: {tmp_path}/func/o.py:f\n" in folder.spec.read_text()
    assert read_spec(folder).objective == "func/o.py:f"
    monkeypatch.chdir(tmp_path / "func")
    assert read_spec(folder).objective == "o.py:f"
    again = _spec.given("study.yaml", (), {"name": "s"}).spec()
    assert prepare(again, Launch(mlruns, True))[2].spec.objective == "o.py:f"
    monkeypatch.chdir("/")
    assert read_spec(folder).objective == f"{tmp_path}/func/o.py:f".removeprefix("/")
    assert reference.absolute("a/../o.py:f") == "/o.py:f"
    assert reference.absolute("digits") == reference.short("digits") == "digits"


def test_printed_commands_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(init, ["my dir"]).output
    assert "cd 'my dir' && hpo check" in said
    assert mlruns_option(Path("my runs").absolute()) == " --mlruns 'my runs'"


def test_study_is_found_before_a_file_of_its_name(
    quick: None, mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(mlruns, trials=1, space=X)
    other = result.schedule.to_json() | {"kind": "nonsense"}
    Path("s").write_text(json.dumps(other))
    assert find("s", mlruns).at(1.0) == result.schedule.at(1.0)
    Path("t").write_text(json.dumps(result.schedule.to_json()))
    assert find("t", mlruns).at(1.0) == result.schedule.at(1.0)
    with pytest.raises(HpoError, match="no study 'u'"):
        find("u", mlruns)


@pytest.mark.parametrize("value", ["[1", "{a: 1", '"a', "'a", " [1"])
def test_half_a_value_is_no_text(value: str) -> None:
    with pytest.raises(HpoError, match="is not YAML"):
        override(f"fixed.q={value}")
    assert override("fixed.q='[1'").value == "[1"
