"""Commands on models that overflow, or whose embedding is their unembedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp import Model, load_model
from tests.experiments.test_cli_hostile import ended
from tests.interp.tiny import VOCABULARY, build_tokenizer, gpt2, llama

pytestmark = pytest.mark.slow

NAMES = ("Ann", "Bo", "Cy", "Dee", "Eve", "Fay")


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    torch.manual_seed(0)
    hf = llama().eval()
    with torch.no_grad():
        hf.model.embed_tokens.weight[VOCABULARY.index("Rome")] = 65_000.0
        for block in hf.model.layers:
            block.self_attn.o_proj.weight *= 2_000.0
    found = {"large": hf.half()}
    for name in ("base", "tuned"):
        torch.manual_seed(0)
        found[name] = gpt2().eval()
    with torch.no_grad():
        found["tuned"].transformer.wte.weight += 0.2 * torch.randn(len(VOCABULARY), 1)
        found["tuned"].transformer.wte.weight *= 1 + torch.rand(len(VOCABULARY), 1)
    return {name: load_model(hf, tokenizer=build_tokenizer()) for name, hf in found.items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, Model]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interp, "load_model", lambda source, **_: models[source])
    places = (*["Lima"] * 5, "Rome")
    both = list(zip(NAMES, places, strict=True))
    pairs = [f"we saw {n} near {p},we saw {n} near Oslo,Gus,Ida" for n, p in both]
    carried = [f"we saw {n} near Lima,we saw {n} near {p},Gus" for n, p in both]
    for name, head, rows in (
        ("pairs", "clean,corrupt,answer,foil", pairs),
        ("carried", "source,target,answer", carried),
        ("questions", "text,answer", [f"so {n} is,Gus" for n in NAMES]),
    ):
        Path(f"{name}.csv").write_text("\n".join([head, *rows]))


@pytest.mark.parametrize(
    "command", [("patch", "--pairs", "pairs.csv"), ("transplant", "--prompts", "carried.csv")]
)
def test_no_mean_is_over_fewer_examples_than_were_given(
    command: tuple[str, ...], models: dict[str, Model], capsys: pytest.CaptureFixture[str]
) -> None:
    interp.logit_lens(models["large"], "so Ann is")
    code, errors = ended(capsys, *command, "--model", "large")
    assert code == 2
    assert "1 of 6 examples is not finite (the first is number 5)" in errors
    assert errors.count("Error:") == 1
    assert not [*Path("results").iterdir()]


def test_a_lens_shows_no_token_where_there_is_none(
    models: dict[str, Model], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.cli import application

    interp.logit_lens(models["large"], "so Ann is")
    words = ["obverse", "lens", "we saw Ann near Rome", "--answer", "Gus", "--model", "large"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        application.main()
    shown = capsys.readouterr()
    assert end.value.code == 0, shown.err
    last = next(line for line in shown.out.splitlines() if line.startswith("3"))
    assert last.split()[-2:] == ["—", "—"]


def test_a_matrix_that_is_both_ends_has_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.cli import application

    words = ["obverse", "diff", "base", "tuned", "--prompts", "questions.csv", "--json"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        application.main()
    shown = capsys.readouterr()
    assert end.value.code == 0, shown.err
    rows: dict[str, Any] = {row["part"]: row for row in json.loads(shown.out)["rows"]}
    both = rows["embedding and unembedding"]
    assert both["weights_changed"] is None
    assert abs(both["single_change"]) > 1e-3
    others = [row["single_change"] for part, row in rows.items() if part[:3] in ("mlp", "att")]
    assert max(map(abs, others)) < 1e-5
