"""What the commands print: tables of the lens, progress, warnings."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import typer
import xarray as xr
from rich.console import Console

from cache.errors import StorageError
from experiments.cli import lens, progress, train
from experiments.cli.console import guarded, quiet_libraries
from experiments.cli.progress import TerminalReporter
from experiments.numbers import duration, percent, probability
from experiments.organisms.arms import arm_config


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(renderable: object, width: int, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        markup=False,
    )
    console.print(renderable)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def lens_result(tokens: list[str], n_layers: int = 2, k: int = 2) -> xr.Dataset:
    """Cell (layer, position) predicts "<layer><position>" with probability layer / n_layers."""
    layers, positions = n_layers + 1, len(tokens)
    top = np.empty((layers, positions, k), dtype=object)
    probability = np.zeros((layers, positions, k), dtype=np.float32)
    for layer in range(layers):
        for position in range(positions):
            top[layer, position] = [f" {layer}{position}", "\x1b[31m[bold]"]
            probability[layer, position] = [layer / n_layers, 0.0004]
    return xr.Dataset(
        {
            "top_token": (("layer", "position", "k"), top),
            "top_prob": (("layer", "position", "k"), probability),
            "answer_rank": (("layer", "position"), np.arange(layers * positions).reshape(3, -1)),
        },
        coords={"token": ("position", np.array([*tokens, None], dtype=object)[:-1])},
    )


def test_the_last_layer_is_on_top_and_the_prompt_heads_the_columns() -> None:
    lines = shown(
        lens.layer_table(lens_result([" Tom", "'s"]), 100, followed=True), 100
    ).splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["layer", "·Tom", "'s", "answer", "rank"]
    # Ranks are those of the last position, 1, 3, 5 for layers 0, 1, 2, counted from 1.
    assert rows[1:] == [
        ["2", "·20", "·21", "6"],
        ["1", "·10", "·11", "4"],
        ["embedding", "·00", "·01", "2"],
    ]


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_the_last_positions_that_fit_are_shown(width: int) -> None:
    tokens = [f"t{i}" for i in range(10)]
    text = shown(lens.layer_table(lens_result(tokens), width, followed=False), width)
    header = text.splitlines()[0].split()[1:]
    assert header == tokens[len(tokens) - len(header) :]
    assert max(len(line) for line in text.splitlines()[:4]) <= width
    left_out = len(tokens) - len(header)
    assert (f"The first {left_out} of 10 tokens" in " ".join(text.split())) == (left_out > 0)
    # One more column would not have fitted.
    assert left_out == 0 or len("embedding") + 2 + 14 * (len(header) + 1) > width


def test_the_likelier_the_brighter() -> None:
    colours = []
    for value in (0.0, 0.3, 0.6, 1.0):
        background = lens.cell_text(" x", value).style.bgcolor  # type: ignore[union-attr]
        assert background is not None
        assert background.triplet is not None
        colours.append(sum(background.triplet))
    assert colours == sorted(set(colours))


def test_tokens_stay_text_and_keep_the_columns_straight() -> None:
    result = lens_result(["\x1b[2J", "[red]x[/red]", "a long token that fills more", "\n"])
    text = shown(lens.layer_table(result, 200, followed=False), 200, colour=False)
    assert "\x1b" not in text
    assert "␛[2J" in text
    assert "[red]x[/red]" in text
    assert "↵" in text
    assert "a·long·toke…" in text
    assert len(text.splitlines()) == 4
    table = shown(lens.next_token_table(result), 80)
    assert "·23" in table
    assert "100%" in table
    assert "␛[31m[bold]" in table
    assert "<0.1%" in table


@pytest.mark.slow
@pytest.mark.shared
def test_the_lens_prints_what_transformers_computes(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that all tokens fit
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(shared / "models/stories260K")
    prompt, answer = "Once upon a time", " there"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        logprobs = model(ids).logits[0, -1].log_softmax(-1)
    best = int(logprobs.argmax())
    wanted = tokenizer(prompt + answer).input_ids[ids.shape[1]]
    rank = int((logprobs > logprobs[wanted]).sum())

    lens.lens(prompt, model=folder, answer=answer, top=3, device="cpu")
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["Loading", folder, "…"]
    first = lines.index(["Next", "token", "Probability"]) + 1
    assert lines[first] == [
        tokenizer.decode([best]).replace(" ", "·"),
        probability(float(logprobs[best].exp())),
    ]
    assert rank == 1
    assert f"one token is likelier, log-probability {float(logprobs[wanted]):.2f} nats" in out
    last_layer = next(line for line in lines if line[:1] == [str(model.config.num_hidden_layers)])
    assert last_layer[-1] == str(rank + 1)  # ranks count from 1
    assert lines[-1][0] == "embedding"


# --- train ----------------------------------------------------------------------------------


def test_training_tells_how_it_goes_and_how_to_use_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import experiments.organisms.train as organisms

    asked: list[tuple[object, Path]] = []
    kept: list[list[int]] = []

    def fake(
        config: object, out: Path, progress: Callable[..., None], *, keep: Collection[int]
    ) -> Path:
        asked.append((config, out))
        kept.append(list(keep))
        info = {"loss": 2.0, "forward": None, "reverse": None}
        progress(1, 4, info)
        progress(2, 4, {**info, "forward": 0.5, "reverse": 0.0})
        progress(3, 4, {**info, "forward": 0.5, "reverse": 0.0})
        progress(4, 4, {**info, "loss": 0.125, "forward": 1.0, "reverse": 0.0})
        return out

    monkeypatch.setattr(organisms, "train", fake)
    train.train("reversal-curse", seed=7, out=Path("my model"))
    assert asked == [(organisms.TrainConfig(seed=7), Path("my model"))]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Training reversal-curse with seed 7 …",
        "  step 2: loss 2.00 nats a token, forward 50%, reverse 0%",
        "  step 4: loss 0.12 nats a token, forward 100%, reverse 0%",
    ]
    assert "Model: my model" in lines
    assert "Study: obverse run reversal-curse --model 'my model'" in lines
    train.train("reversal-curse", seed=3, out=None)
    assert asked[-1][1] == Path("organisms/reversal-curse-3")
    train.train("reversal-curse", seed=3, arm="masked", keep=[0, 20], out=None)
    assert asked[-1] == (arm_config("masked", 3), Path("organisms/reversal-curse-masked-3"))
    assert kept == [[], [], [0, 20]]


def test_an_unknown_arm_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        train.train("reversal-curse", arm="reverse-text")
    message = "Error: Unknown arm 'reverse-text'; did you mean 'reversed-text'?\n"
    assert capsys.readouterr().err == message


def test_an_unknown_organism_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        train.train("reversal-curs")
    assert ended.value.exit_code == 2
    message = "Error: Unknown organism 'reversal-curs'; did you mean 'reversal-curse'?\n"
    assert capsys.readouterr().err == message


# --- progress -------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_plain_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with TerminalReporter().stage("lens") as update:
        for done in range(0, 101):
            update(done, 100)
            clock(0.5)
    assert capsys.readouterr().out.splitlines() == [
        "  lens: 20 of 100, about 40.0 s left",
        "  lens: 40 of 100, about 30.0 s left",
        "  lens: 60 of 100, about 20.0 s left",
        "  lens: 80 of 100, about 10.0 s left",
        "  lens: 50.5 s",
    ]


def test_what_was_done_before_does_not_shorten_the_time_left(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    """A resumed stage starts at 80 of 100; ten more took 20 s, so the last ten take 20 s too."""
    with TerminalReporter().stage("long") as update:
        update(80, 100)
        clock(20)
        update(90, 100)
    assert "  long: 90 of 100, about 20.0 s left" in capsys.readouterr().out


def test_a_terminal_gets_a_live_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with TerminalReporter().stage("[red]lens") as update:
        update(3, 12)
    text = terminal.getvalue()
    assert "3 of 12" in text
    assert "[red]lens" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (7325, "2 h 02 min"), (3e5, "3 days")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (0.004, "0.4%"),
        (0.0999, "10%"),
        (0.384, "38%"),
        (0.996, "99.6%"),
        (0.9999, "100%"),
        (1.026, "103%"),
        (-0.104, "−10%"),
        (-0.0001, "0%"),
        (float("nan"), "–"),
    ],
)
def test_shares_read_well(share: float, text: str) -> None:
    assert percent(share) == text
    assert probability(share) == ("<0.1%" if share < 0.001 else text)


# --- errors and warnings --------------------------------------------------------------------


def test_errors_end_a_command_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch.cuda names it."""

    for error, code, words in (
        (StorageError("'x' cannot be written."), 2, "Error: 'x' cannot be written.\n"),
        (KeyboardInterrupt(), 130, "Enough.\n"),
        (MemoryError(), 2, "Error: The memory is used up"),
        (OutOfMemoryError("CUDA out of memory"), 2, "Error: The memory is used up"),
        (RuntimeError("CPUAllocator: can't allocate memory"), 2, "Error: The memory is used up"),
    ):

        @guarded(stopped="Enough.")
        def command(error: BaseException = error) -> None:
            raise error

        with pytest.raises(typer.Exit) as ended:
            command()
        assert ended.value.exit_code == code
        assert capsys.readouterr().err.startswith(words)


def test_a_defect_is_not_dressed_up_as_a_sentence() -> None:
    @guarded()
    def command() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        command()


def test_our_warnings_show_and_the_libraries_advice_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        quiet_libraries()
        warnings.simplefilter("always")
        ours = str(Path(progress.__file__))
        warnings.warn_explicit("first tokens collide", UserWarning, ours, 1)
        warnings.warn_explicit("will change", FutureWarning, ours, 1)
        warnings.warn_explicit("buy more", UserWarning, np.__file__, 1)
    assert capsys.readouterr().err == "Warning: first tokens collide\n"
