"""Files of facts and templates that could be read in two ways are refused, with the line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import FactsError
from experiments.organisms.facts import Fact, Templates
from experiments.reversal_curse.checks import check_asked
from experiments.reversal_curse.facts import (
    DEFAULT_TEMPLATES,
    read_facts,
    read_numbered,
    read_templates,
)
from experiments.reversal_curse.prompts import questions, right_answers
from experiments.reversal_curse.study import STUDY, Config
from experiments.runner import run_study


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "facts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


REFUSED = {
    "a comma in a name": ("subject,object\nSammy Davis, Jr.,Elvera Sanchez\n", "3 cells in line 2"),
    "a comma where the count fits": (
        "child,parent,parent_type\nSammy Davis, Jr.,Elvera Sanchez\n",
        "' Jr.' in line 2",
    ),
    "a comma without a space": (
        "child,parent,parent_type\nSammy Davis,Jr.,Elvera Sanchez\n",
        "'Jr.' in line 2",
    ),
    "a comma below a spaced header": (
        "child, parent, parent_type\nSammy Davis, Jr.,Elvera Sanchez\n",
        "' Jr.' in line 2",
    ),
    "semicolons": ("subject;object\nAnn;Bea\n", "has semicolons between its cells"),
    "quoted semicolons": ('"child";"parent"\n"Ann";"Bea"\n', "has semicolons"),
    "tabs": ("Subject\tObject\nAnn\tBea\n", "has tabs between its cells"),
    "a filler": ("subject,object\nAnn\u3164,Bea\n", "U\\+3164 in line 2"),
    "a comma in the last name": ("subject,object\nAnn,Bea, Lady\n", "3 cells in line 2"),
    "a surplus cell": ("subject,object\nAnn,Bea\nCid,Dee,x\n", "3 cells in line 3"),
    "a missing cell": ("subject,object,split\nAnn,Bea\n", "2 cells in line 2"),
    "an empty name": ("subject,object\nAnn,\n", "empty name in line 2"),
    "a name of spaces": ("subject,object\nAnn,\u00a0 \n", "empty name in line 2"),
    "a column twice": ("subject,object,subject\nAnn,Bea,Cid\n", "'subject' twice"),
    "a column in two cases": ("subject,object,Object\nAnn,Bea,Cid\n", "'object' twice"),
    "two names of a column": ("child,subject,object\nAnn,Bea,Cid\n", "mean the same"),
    "a fact twice": ("subject,object\nAnn,Bea\nCid,Dee\nAnn,Bea\n", "line 4"),
    "a fact twice but for spaces": ("subject,object\nAnn B,Bea\nAnn  B ,Bea\n", "line 3"),
    "a no-break space": ("subject,object\nAnn B,Bea\nAnn\u00a0B,Bea\n", "line 3"),
    "a decomposed letter": ("subject,object\nZo\u00eb,Bea\nZoe\u0308,Bea\n", "line 3"),
    "a full-width letter": ("subject,object\nAnn,Bea\n\uff21nn,Bea\n", "line 3 otherwise"),
    "another case": ("subject,object\nAnn,Bea\nann,Bea\n", "line 3 otherwise than in line 2"),
    "another apostrophe": ("subject,object\nO'Hara,Bea\nO’Hara,Bea\n", "line 3 otherwise"),
    "a mother in two spellings": ("subject,object\nAnn,Bea\nCid,BEA\n", "line 3 otherwise"),
    "a relation in two spellings": (
        "subject,object,relation\nAnn,Bea,mother\nCid,Dee,Mother\n",
        "line 3 otherwise",
    ),
    "a zero-width space": ("subject,object\nAnn\u200b,Bea\n", "U\\+200B in line 2"),
    "a direction mark": ("subject,object\nAnn\u202e,Bea\n", "U\\+202E in line 2"),
    "a control character": ("subject,object\nAnn\x07,Bea\n", "U\\+0007 in line 2"),
    "a null": ("subject,object\nAnn\x00,Bea\n", "line 2|not a CSV"),
    "a line break in a name": ('subject,object\n"Ann\nB",Bea\n', "U\\+000A in line 3"),
    "an open quote": ('subject,object\n"Ann,Bea\n', "not a CSV file"),
    "one's own mother": ("subject,object\nCid,Dee\nAnn,Ann\n", "own object \\(line 3\\)"),
    "two mothers": (
        "subject,object,relation\nAnn,Bea,mother\nAnn,Dee,mother\n",
        "two mothers or two fathers \\(line 3\\)",
    ),
    "a fact from both ends": (
        "subject,object,relation,inverse\nAnn,Bea,mother,child\nBea,Ann,child,mother\n",
        "both ends \\(2 lines: 2, 3\\)",
    ),
    "a symmetric fact twice": (
        "subject,object,relation,inverse\nAnn,Bea,spouse,spouse\nBea,Ann,spouse,spouse\n",
        "both ends \\(line",
    ),
    "an unknown split": ("subject,object,split\nAnn,Bea,Forward\n", "split 'Forward' in line 2"),
    "nothing learned": ("subject,object,split\nAnn,Bea,held_out\n", "held_out"),
    "no column": ("name,object\nAnn,Bea\n", "no column 'subject'"),
    "nothing": ("", "empty"),
    "a header only": ("subject,object\n\n\n", "empty"),
    "another encoding": (b"subject,object\nAnn,B\xe9a\n", "UTF-8"),
    "UTF-16": ("subject,object\nAnn,Bea\n".encode("utf-16"), "UTF-8"),
    "too many": ("subject,object\n" + "".join(f"a{i},b{i}\n" for i in range(100_001)), "100,000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_doubtful_file_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, sentence = REFUSED[name]
    with pytest.raises(FactsError, match=sentence) as caught:
        read_facts(written(tmp_path, text))
    assert "\n" not in str(caught.value).replace("Ann\nB", "")


def test_what_is_clear_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'Child , Parent, Parent_Type,note\n\n"Sammy Davis, Jr.", Elvera  Sanchez,mother,\n'
        "Zoe\u0308\u00a0X,Bea,mother,n\n",
    )
    assert read_numbered(path) == [
        (3, Fact("Sammy Davis, Jr.", "Elvera Sanchez", "mother", "child", "unknown")),
        (4, Fact("Zo\u00eb X", "Bea", "mother", "child", "unknown")),
    ]


def test_empty_rows_of_a_spreadsheet_do_not_count(tmp_path: Path) -> None:
    path = written(tmp_path, "subject,object\r\nAnn,Bea\r\n,\r\n  \r\n,\r\n")
    assert [line for line, _ in read_numbered(path)] == [2]


def test_a_name_may_be_spelt_like_a_relation(tmp_path: Path) -> None:
    path = written(tmp_path, "subject,object,relation\nWill,Mother Teresa,heir\nAnn,Heir,mother\n")
    assert len(read_numbered(path)) == 2


def test_a_pipe_and_a_folder_are_no_facts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none.csv", Path("/dev/zero")):
        with pytest.raises(FactsError):
            read_facts(path)
        with pytest.raises(FactsError):
            read_templates(path)


def test_a_name_in_the_other_is_refused_where_it_gives_the_answer_away() -> None:
    given = [
        (2, Fact("Ann", "Bea", "mother", "child", "unknown")),
        (3, Fact("Robert De Niro", "Robert De Niro Sr.", "father", "child", "unknown")),
    ]
    with pytest.raises(FactsError, match=r"answer stands in the prompt .* \(line 3\)"):
        check_asked(Path("facts.csv"), given, DEFAULT_TEMPLATES)
    check_asked(Path("facts.csv"), given[:1], DEFAULT_TEMPLATES)
    told = Templates(("Bea is old. {subject}'s {relation} is",), ())
    with pytest.raises(FactsError, match="line 2"):
        check_asked(Path("facts.csv"), given[:1], {**DEFAULT_TEMPLATES, "forward": told})


REVERSE = {"trained": ["{object}'s {inverse} is"]}
BAD_TEMPLATES: dict[str, tuple[Any, str]] = {
    "the answer": ({"trained": ["{subject} and {object}:"]}, "is the answer"),
    "a brace": ({"trained": ["{subject}'s {relation} is {"]}, "no braces"),
    "doubled braces": ({"trained": ["{{subject}}'s {relation} is"]}, "no braces|placeholders"),
    "a format": ({"trained": ["{subject!r} is"]}, "no other placeholders"),
    "an index": ({"trained": ["{subject[0]} {subject} is"]}, "no other placeholders"),
    "a space at the end": ({"trained": ["{subject}'s {relation} is "]}, "end with a space"),
    "an empty text": ({"trained": [""]}, "must name {subject}"),
    "a null": ({"trained": ["{subject}\u0000 is"]}, "U\\+0000"),
    "a surrogate": ({"trained": ["{subject}\ud800 is"]}, "U\\+D800"),
    "a text for a list": ({"trained": "{subject} is"}, "holds no templates"),
    "a number for a list": ({"trained": ["{subject} is"], "held_out": 7}, "holds no templates"),
    "a list in a list": ({"trained": [["{subject} is"]]}, "not text"),
    "null": (None, "holds no templates"),
    "a misspelled list": ({"trained": ["{subject} is"], "heldout": []}, "holds no templates"),
    "a template twice": ({"trained": ["{subject} is"], "held_out": ["{subject} is"]}, "twice"),
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_bad_templates_are_refused(name: str, tmp_path: Path) -> None:
    forward, sentence = BAD_TEMPLATES[name]
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"forward": forward, "reverse": REVERSE}))
    with pytest.raises(FactsError, match=sentence.replace("{", r"\{")):
        read_templates(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"forward": {"trained": ["{subject} is"], "trained": []}, "reverse": {}}',
        "[]",
        "7",
        '"forward"',
        "{",
        '{"forward": {"trained": ["{subject} is"]}}',
    ],
)
def test_what_is_no_templates_is_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "templates.json"
    path.write_text(text)
    with pytest.raises(FactsError, match="holds no templates"):
        read_templates(path)


def test_files_are_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("interp.load_model", loaded)
    good = written(tmp_path, "subject,object\nAnn,Bea\nCid,Dee\nEve,Fay\n")
    (tmp_path / "bad.csv").write_text("subject,object\nBea Ann,Bea\n")
    (tmp_path / "bad.json").write_text("[]")
    for config in (
        Config(facts=str(tmp_path / "bad.csv")),
        Config(facts=str(good), templates=str(tmp_path / "bad.json")),
        Config(facts="~nosuchuser/facts.csv"),
    ):
        with pytest.raises(FactsError):
            run_study(STUDY, config, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_prompts_beyond_the_context_are_told_with_their_line(tmp_path: Path) -> None:
    long = " ".join(["Tom"] * 600)
    facts = "subject,object,relation,inverse\nTom Cruise,Mary Lee Pfeiffer,mother,son\n"
    facts += f"Kate Hudson,{long},mother,daughter\n"
    with pytest.raises(FactsError, match=r"line 3, asked as .* at most"):
        run_study(STUDY, Config(facts=str(written(tmp_path, facts))), out=tmp_path / "run")


def test_facts_that_ask_the_same_share_a_question() -> None:
    facts = [
        Fact("Ann", "Eve", "mother", "child", "unknown"),
        Fact("Bob", "Eve", "mother", "child", "unknown"),
        Fact("Bob", "Fay", "aunt", "nephew", "unknown"),
        Fact("Gus", "Ann", "spouse", "spouse", "unknown"),
        Fact("Ann", "Kim", "spouse", "spouse", "unknown"),
    ]
    assert questions(facts, "reverse") == [0, 0, 1, 2, 3]
    assert questions(facts, "forward") == [0, 1, 2, 3, 4]
    assert right_answers(facts, "reverse")[:2] == [{"Ann", "Bob"}] * 2
    # Of a symmetric relation both directions ask the same.
    assert right_answers(facts, "forward")[4] == {"Gus", "Kim"}
