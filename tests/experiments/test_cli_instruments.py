"""Commands that run one instrument on a table of prompts."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import interp
from experiments.cli import application
from experiments.cli.instruments.prompt_files import read_columns
from experiments.organisms.bundled import reversal_curse
from experiments.run_directory.storage import decode_dataset
from interp import Model, PromptPairs, load_model, sweep
from interp.circuits import Circuit, attribute_edges
from interp.errors import PromptError
from interp.patching import normalised
from tests.experiments.test_cli_hostile import ended

pytestmark = pytest.mark.slow

MOTHERS = {
    "Tom Cruise": "Mary Lee Pfeiffer",
    "Kate Hudson": "Goldie Hawn",
    "Carrie Fisher": "Debbie Reynolds",
    "Keanu Reeves": "Patricia Taylor",
    "Winston Churchill": "Jennie Jerome",
    "Gwyneth Paltrow": "Blythe Danner",
    "Leonardo DiCaprio": "Irmelin Indenbirken",
    "Ben Stiller": "Anne Meara",
    "Angelina Jolie": "Marcheline Bertrand",
    "Jamie Lee Curtis": "Janet Leigh",
}
NAMES = list(MOTHERS)
OTHERS = NAMES[1:] + NAMES[:1]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("reversal-curse")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same with other weights in the last MLP."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(reversal_curse(), folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    weights["model.layers.2.mlp.down_proj.weight"] *= -1
    save_file(weights, file, metadata={"format": "pt"})
    return load_model(str(folder))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model, tuned: Model) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        interp, "load_model", lambda source, **__: tuned if source == "tuned" else model
    )
    write("pairs.csv", pairs_table(10))
    return tmp_path


def pairs_table(n: int) -> list[list[str]]:
    head = ["clean", "corrupt", "answer", "foil", "clean_name", "corrupt_name"]
    rows = [
        [f"{a}'s mother is", f"{b}'s mother is", MOTHERS[a], MOTHERS[b], a, b]
        for a, b in zip(NAMES, OTHERS, strict=True)
    ]
    return [head, *rows[:n]]


def write(path: str, rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def pairs_of(model: Model, rows: slice) -> PromptPairs:
    names, others = NAMES[rows], OTHERS[rows]
    return PromptPairs(
        model,
        clean=[f"{name}'s mother is" for name in names],
        corrupt=[f"{name}'s mother is" for name in others],
        answers=[f" {MOTHERS[name]}" for name in names],
        foils=[f" {MOTHERS[name]}" for name in others],
        spans={"name": list(zip(names, others, strict=True))},
    )


@pytest.fixture
def obverse(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command that must work, and returns what it prints on stdout."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["obverse", *arguments])
        with pytest.raises(SystemExit) as end:
            application.main()
        printed = capsys.readouterr()
        assert end.value.code == 0, printed.err
        return printed.out

    return run


def test_a_patch_is_the_sweep_of_its_pairs(
    obverse: Callable[..., str], model: Model, home: Path
) -> None:
    told = json.loads(obverse("patch", "--pairs", "pairs.csv", "--json", "--out", "mine"))
    expected = sweep(model, pairs_of(model, slice(None)), "resid_pre")
    kept = decode_dataset(Path("mine/patch.nc").read_bytes(), "patch.nc")
    np.testing.assert_array_equal(kept["patched"], expected["patched"])
    share = normalised(expected).mean("example")
    table = pd.read_csv("mine/patch.csv")
    assert len(table) == len(told["rows"]) == share.size
    for row in table.to_dict("records"):
        slot = list(expected["position_label"].values).index(row["position"])
        here = float(share.sel(layer=row["layer"]).isel(position=slot))
        np.testing.assert_allclose(row["share"], here, atol=1e-6)
    assert told["effect"]["clear"] == 1
    assert told["folder"] == "mine"
    assert "plotly" in (home / "mine" / "figures.html").read_text().lower()


def test_one_pair_has_no_share(obverse: Callable[..., str]) -> None:
    one = ["--clean", "Tom Cruise's mother is", "--corrupt", "Kate Hudson's mother is"]
    one += ["--answer", "Mary Lee Pfeiffer", "--foil", "Goldie Hawn"]
    one += ["--span", "name=Tom Cruise|Kate Hudson"]
    shown = obverse("patch", *one)
    assert "Change of logit_diff from the corrupt run, in logits" in shown
    assert "No share can be told" in shown
    assert "%" not in shown
    assert "share" not in pd.read_csv("results/patch-1/patch.csv")


def test_several_axes_are_flattened(obverse: Callable[..., str]) -> None:
    told = obverse("patch", "--pairs", "pairs.csv", "--site", "z", "--by", "head, span")
    assert "head 0" in told or "head 1" in told
    table = pd.read_csv("results/patch-1/patch.csv")
    assert {"layer", "span", "head", "change", "share"} == {*table.columns}


def test_only_some_are_run(obverse: Callable[..., str]) -> None:
    assert "3 of " in obverse("patch", "--pairs", "pairs.csv", "--only", "3")


def test_a_circuit_is_judged_on_other_pairs(
    obverse: Callable[..., str], model: Model, home: Path
) -> None:
    told = json.loads(obverse("circuit", "--pairs", "pairs.csv", "--edges", "30", "--json"))
    folder = Path(told["folder"])
    expected = attribute_edges(model, pairs_of(model, slice(None, None, 2)))
    kept = decode_dataset((folder / "scores.nc").read_bytes(), "scores.nc")
    np.testing.assert_array_equal(kept["score"], expected["score"])
    circuit = Circuit.load(folder / "circuit.json", model)
    table = pd.read_csv(folder / "edges.csv")
    chosen = table[table["in_circuit"]]
    assert {*zip(chosen["source"], chosen["destination"], strict=True)} == {*circuit.edges}
    assert told["faithfulness"]["shared_pairs"] == 0
    assert 0 < told["faithfulness"]["f"] < 1.2
    assert told["faithfulness"]["f_low"] < told["faithfulness"]["f"]


def test_too_few_pairs_make_no_circuit(obverse: Callable[..., str]) -> None:
    write("few.csv", pairs_table(4))
    shown = obverse("circuit", "--pairs", "few.csv")
    assert "there is no circuit to speak of" in shown
    assert "%" not in shown
    assert sorted(path.name for path in Path("results/circuit-1").iterdir()) == [
        "edges.csv",
        "scores.nc",
    ]


def test_pairs_that_chose_a_circuit_are_no_test_of_it(obverse: Callable[..., str]) -> None:
    shown = obverse("circuit", "--pairs", "pairs.csv", "--held-out", "pairs.csv")
    assert "10 of these pairs are among those that chose the edges" in shown


def test_a_probe_is_the_report_of_its_examples(obverse: Callable[..., str], model: Model) -> None:
    from probes import collect, probe_report

    texts = [f"{name}'s {who} is" for name in NAMES for who in ("mother", "son")]
    labels = [who for _ in NAMES for who in ("mother", "son")]
    groups = [name for name in NAMES for _ in range(2)]
    rows = [list(row) for row in zip(texts, labels, groups, strict=True)]
    write("labelled.csv", [["text", "label", "group"], *rows])
    told = json.loads(obverse("probe", "--texts", "labelled.csv", "--json", "--position", "-2"))
    features = collect(
        model,
        texts,
        [f"resid_post.{i}" for i in range(model.n_layers)],
        positions={"token -2": -2},
    )
    report = probe_report(features, labels, groups=groups)
    found = [row["accuracy"] for row in told["rows"]]
    np.testing.assert_allclose(found, report["accuracy"])
    assert found[0] == 1.0
    shown = obverse("probe", "--texts", "labelled.csv", "--position", "all", "--layers", "0")
    assert "resid_post.0" in shown


def carried(obverse: Callable[..., str], *options: str) -> Any:
    head = ["source", "target", "answer", "source_name", "target_name"]
    rows = [
        [f"{a}'s mother is", f"{b}'s mother is", MOTHERS[a], a, b]
        for a, b in zip(NAMES[:4], OTHERS, strict=False)
    ]
    write("carried.csv", [head, *rows])
    return json.loads(obverse("transplant", "--prompts", "carried.csv", "--json", *options))


def test_a_transplant_is_the_instruments(obverse: Callable[..., str], model: Model) -> None:
    at = ("--source-at", "name -1", "--target-at", "name -1")
    told = carried(obverse, *at, "--source-layers", "0-1")
    names, others = NAMES[:4], OTHERS[:4]
    expected = interp.transplant(
        model,
        [f"{name}'s mother is" for name in names],
        [f"{name}'s mother is" for name in others],
        source_at="name -1",
        target_at="name -1",
        source_spans={"name": names},
        target_spans={"name": others},
        source_layers=[0, 1],
        answers=[f" {MOTHERS[name]}" for name in names],
    )
    assert len(told["rows"]) == expected["patched"].size
    for row in told["rows"]:
        cell = {name: row[name] for name in ("example", "source_layer", "target_layer")}
        assert row["patched"] == pytest.approx(float(expected["patched"].sel(cell)), abs=1e-5)
    assert told["unpatched"] == pytest.approx(float(expected["unpatched"].mean()), abs=1e-5)


def test_without_answers_the_next_tokens_are_told(obverse: Callable[..., str]) -> None:
    prompts = ("--source", "Tom Cruise's mother is", "--target", "Kate Hudson's mother is")
    shown = obverse("transplant", *prompts)
    assert "Likeliest next token of the first example" in shown
    # From the last token into the last token at the last layer, it is the source's.
    table = pd.read_csv("results/transplant-1/transplant.csv")
    last = table[(table["source_layer"] == 2) & (table["target_layer"] == 2)]
    assert last["top_token"].str.strip().tolist() == ["Mary"]
    assert "patched" not in table


def test_a_difference_is_where_the_weights_were_changed(obverse: Callable[..., str]) -> None:
    rows = [[f"{name}'s mother is", mother] for name, mother in MOTHERS.items()]
    write("questions.csv", [["text", "answer"], *rows])
    write("unrelated.csv", [["text"], *([f"As for {name}"] for name in NAMES)])
    files = ("--prompts", "questions.csv", "--texts", "unrelated.csv")
    told = json.loads(obverse("diff", "base", "tuned", *files, "--json"))
    changed = {row["part"]: row["weights_changed"] for row in told["rows"]}
    assert [part for part, change in changed.items() if change] == ["mlp 2"]
    shares = {row["part"]: row["single_share"] for row in told["rows"]}
    assert shares["mlp 2"] == pytest.approx(1, abs=1e-4)
    assert all(abs(share) < 1e-4 for part, share in shares.items() if part != "mlp 2")
    shown = obverse("diff", "base", "tuned", *files)
    assert "share of the difference" in shown
    assert "the mean difference promotes" in " ".join(shown.split())


def test_one_prompt_tells_no_share_of_a_difference(obverse: Callable[..., str]) -> None:
    one = ("--prompt", "Tom Cruise's mother is", "--answer", "Mary Lee Pfeiffer")
    shown = obverse("diff", "base", "tuned", *one)
    assert "%" not in shown
    assert "No share" in shown


def test_folders_are_new_ones(obverse: Callable[..., str], home: Path, capsys: Any) -> None:
    obverse("patch", "--pairs", "pairs.csv", "--layers", "0")
    obverse("patch", "--pairs", "pairs.csv", "--layers", "0")
    assert {path.name for path in Path("results").iterdir()} == {"patch-1", "patch-2"}
    before = (home / "results/patch-1/patch.csv").read_bytes()
    code, errors = ended(capsys, "patch", "--pairs", "pairs.csv", "--out", "results/patch-1")
    assert code == 2
    assert "is not empty" in errors
    assert (home / "results/patch-1/patch.csv").read_bytes() == before
    # What fails leaves no folder behind.
    code, _ = ended(capsys, "patch", "--pairs", "pairs.csv", "--out", "new", "--site", "nowhere")
    assert code == 2
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"clean,corrupt\na,b\n", "has no column 'answer'"),
        (b"clean,corrupt,answer\n", "holds no example"),
        (b"clean,corrupt,answer\na,b\n", "Line 2 of"),
        (b'clean,corrupt,answer\n\n"a\nb",b,c\n\na,b\n', "Line 6 of"),
        (b"clean;corrupt;answer\na;b;c\n", "has semicolons between its columns"),
        (b"clean\tcorrupt\tanswer\na\tb\tc\n", "has tabs between its columns"),
        (b"clean,corrupt,answer,clean_\na,b,c,d\n", "'clean_' of 'bad.csv' names no span"),
        (b"clean,corrupt,answer,answer\na,b,c,d\n", "the column 'answer' twice"),
        (b'clean,corrupt,answer\n"a,b,c\n', "is no table of text"),
        (b"clean,corrupt,answer\n\xff,b,c\n", "is no table of text"),
        (b"clean,corrupt,answer,foil,clean_x\na,b,c,d,a\n", "has no 'corrupt_x' beside it"),
    ],
)
def test_a_bad_table_is_told_in_a_sentence(
    content: bytes, sentence: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.csv").write_bytes(content)
    code, errors = ended(capsys, "patch", "--pairs", "bad.csv")
    assert code == 2
    assert sentence in errors
    assert errors.count("\n") == 1
    assert not Path("results").exists() or not [*Path("results").iterdir()]


def test_values_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbftext, label\n"1,0",NA\n"two\nlines",007\n\n')
    assert read_columns(path, ["text", "label"]) == {
        "text": ["1,0", "two\nlines"],
        "label": ["NA", "007"],
    }
    with pytest.raises(PromptError, match="no column 'group'"):
        read_columns(path, ["group"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pairs", "pairs.csv", "--clean", "x"], "one or the other"),
        (["--clean", "x"], "There is no --corrupt"),
        (["--clean", "a", "--corrupt", "b", "--answer", "c"], "with a foil; give foils too"),
        ([], "There is no --clean"),
        (["--clean", "a", "--corrupt", "b", "--answer", "c", "--span", "a|b"], "is no span"),
    ],
)
def test_pairs_come_from_one_place(
    options: list[str], sentence: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = ended(capsys, "patch", *options)
    assert code == 2
    assert sentence in errors
