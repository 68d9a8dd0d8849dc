"""What a command on a table leaves: all of it or nothing, whatever stands at the place for it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.cli.console import guarded
from experiments.cli.instruments import results
from experiments.cli.instruments.prompt_files import read_columns
from experiments.cli.instruments.results import findings_kept
from experiments.errors import StorageError
from tests.experiments.test_cli_hostile import ended

HOSTILE = "\x1b[31m[bold red]x[/bold red] :smile: \u202e\x07"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def keep(out: str | None = None, *, as_json: bool = False, fail: bool = False) -> None:
    with findings_kept("patch", None if out is None else Path(out), as_json) as found:
        if fail:
            raise StorageError("It failed.")
        found.tables["patch"] = pd.DataFrame({"token": ["\r", "\n", ",", '"', "x"], "n": range(5)})
        found.tables["more"] = pd.DataFrame({"n": [1.5, np.nan]})
        found.sentences.append(HOSTILE)
        found.heading = HOSTILE
        found.numbers["values"] = {
            "nan": float("nan"),
            "numpy": np.float32("inf"),
            "array": np.array([1.0, np.nan]),
            "list": [np.int64(1), -np.inf],
            HOSTILE: np.bool_(True),
        }


def left() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_json_holds_no_nan_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    keep(as_json=True)
    printed = capsys.readouterr()
    assert printed.out.isascii()
    assert "\x1b" not in printed.out + printed.err

    def constant(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    told = json.loads(printed.out, parse_constant=constant)
    values = told["values"]
    assert values["nan"] is values["numpy"] is None
    assert values["array"] == [1.0, None]
    assert values["list"] == [1, None]
    assert values[HOSTILE] is True
    assert told["sentences"] == [HOSTILE]


def test_a_terminal_is_shown_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    keep()
    shown = capsys.readouterr().out
    assert "[bold red]x[/bold red] :smile:" in shown
    assert not {"\x1b", "\x07", "\u202e"} & {*shown}


def test_every_character_of_a_token_comes_back() -> None:
    keep("kept")
    table = pd.read_csv("kept/patch.csv", keep_default_na=False)
    assert table["token"].tolist() == ["\r", "\n", ",", '"', "x"]
    assert table["n"].tolist() == [0, 1, 2, 3, 4]
    assert pd.read_csv("kept/more.csv")["n"].isna().tolist() == [False, True]


@pytest.mark.parametrize("out", ["file", "file/below", "to-file", "n" * 300, "full"])
def test_where_no_new_folder_can_be_is_told_before_the_work(
    out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("mine")
    Path("to-file").symlink_to("file")
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    before = left()
    pairs = ("--clean", "a", "--corrupt", "b", "--answer", "c", "--model", "no-such-model")
    code, errors = ended(capsys, "patch", *pairs, "--out", out)
    assert code == 2
    assert errors.count("Error:") == 1
    assert "no-such-model'" not in errors
    assert "Traceback" not in errors
    assert left() == before
    assert Path("file").read_text() == "mine"


def test_links_to_folders_are_followed_and_others_make_nothing() -> None:
    Path("there").mkdir()
    Path("link").symlink_to("there")
    Path("dangling").symlink_to("nowhere")
    keep("link")
    assert sorted(path.name for path in Path("there").iterdir()) == ["more.csv", "patch.csv"]
    with pytest.raises(StorageError, match="dangling"):
        keep("dangling")
    assert not Path("nowhere").exists()


def test_the_users_own_empty_folder_stays() -> None:
    Path("mine").mkdir()
    for out in ("mine", "new", None):
        with pytest.raises(StorageError, match="It failed"):
            keep(out, fail=True)
    assert left() in (["mine"], ["mine", "results"])


def refusing(number: int, error: BaseException) -> Callable[..., None]:
    """`write_atomic` that fails with the file of that number."""
    write, count = results.write_atomic, iter(range(100))

    def written(*args: Any, **settings: Any) -> None:
        if next(count) == number:
            raise error
        write(*args, **settings)

    return written


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2), (KeyboardInterrupt(), 130)],
)
def test_a_part_of_it_is_not_left(
    number: int, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    monkeypatch.setattr(results, "write_atomic", refusing(number, error))
    Path("mine").mkdir()
    for out in ("mine", "new"):
        monkeypatch.setattr(results, "write_atomic", refusing(number, error))
        with pytest.raises(typer.Exit) as end:
            guarded()(keep)(out)
        assert end.value.exit_code == code
    assert left() == ["mine"]
    monkeypatch.undo()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("read-only").mkdir()

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with (
        pytest.raises(StorageError, match="read-only; choose a folder that can be written"),
        findings_kept("patch", Path("read-only"), as_json=False),
    ):
        raise AssertionError("the work has begun")
    assert left() == ["read-only"]


def test_columns_that_nobody_reads_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("text,label,groups,\x1b[31m\na,b,c,d\n")
    found = read_columns(Path("table.csv"), ["text", "label"], ["group"])
    assert found == {"text": ["a"], "label": ["b"]}
    told = capsys.readouterr().err
    assert "Not read in 'table.csv': the columns groups, ␛[31m." in told
    assert "\x1b" not in told
