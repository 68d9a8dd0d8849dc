"""`obverse harvest` and `obverse cache`, as a user types them."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cache import ActivationStore
from cache.errors import StorageError
from experiments.cli.application import application
from experiments.cli.harvest import choose_sites, parse_count
from experiments.cli.progress import Meter
from experiments.cli.store import layer_ranges, number_ranges
from tests.experiments.commands import environment
from tests.warm import Process

pytestmark = pytest.mark.slow

WORDS = ["Tom", "Kate", "Goldie", "Mary", "Lee", "Hudson", "Hawn", "Cruise"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [" ".join(WORDS[(i // 8**k) % 8] for k in range(5)) for i in range(400)]
    Path("corpus.txt").write_text("\n".join(lines))


def obverse(*words: str) -> Result:
    return CliRunner().invoke(application, list(words), env={"COLUMNS": "200"})


def test_harvest_list_verify_remove() -> None:
    first = obverse("harvest", "--text", "corpus.txt", "--context", "16", "--tokens", "1k")
    assert first.exit_code == 0, first.output
    assert "1 k tokens run" in first.output
    again = obverse("harvest", "--text", "corpus.txt", "--context", "16", "--tokens", "1k")
    assert "nothing to compute" in again.output
    obverse(
        *("harvest", "--text", "corpus.txt", "--context", "16", "--tokens", "1k"),
        *("--sites", "z,mlp_out", "--layers", "1-2", "--store-dtype", "bf16"),
    )
    listed = obverse("cache", "ls").output
    assert re.search(r"reversal-curse \(\w{8}\) +float32 +resid_post +0–\d ", listed)
    assert re.search(r"reversal-curse \(\w{8}\) +bfloat16 +z +1–2 ", listed)
    verified = obverse("cache", "verify")
    assert verified.exit_code == 0
    assert "are intact" in verified.output
    assert obverse("cache", "rm").exit_code == 2
    assert (
        "Removed"
        in obverse("cache", "rm", "--model", "reversal-curse", "--sites", "z", "-y").output
    )
    listed = obverse("cache", "ls").output
    assert "resid_post" in listed
    assert "mlp_out" in listed
    assert not re.search(r"\bz\b", listed)
    assert obverse("cache", "rm", "--all", "--yes").exit_code == 0
    assert "is empty" in obverse("cache", "ls").output
    assert "Nothing was evicted" in obverse("cache", "gc").output


def test_damage_is_named_and_repaired() -> None:
    obverse("harvest", "--text", "corpus.txt", "--context", "16")
    shard = next(Path("activations/shards").glob("*/*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 16
    shard.write_bytes(content)
    found = obverse("cache", "verify", "--model", "reversal-curse")
    assert found.exit_code == 1
    assert shard.stem in found.output
    assert "rows were computed again" in found.output
    assert obverse("cache", "verify").exit_code == 0
    assert "is removed" in obverse("cache", "gc").output


def test_what_cannot_fit_is_refused_with_the_figures() -> None:
    result = obverse("harvest", "--text", "corpus.txt", "--context", "16", "--budget", "50kB")
    assert result.exit_code == 2
    assert re.search(
        r"tokens at \d sites take [\d.]+ MB, but the store's budget is 50 kB", result.output
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache", "ls"], "no store 'activations'"),
        (["harvest", "--text", "none.txt"], "There is no file 'none.txt'"),
        (["harvest", "--text", "corpus.txt", "--tokens", "many"], "write it like 500k or 10M"),
        (["harvest", "--text", "corpus.txt", "--layers", "x"], "are not layers"),
        (["harvest", "--text", "corpus.txt", "--layers", "99"], "no layer 99"),
        (["harvest", "--text", "corpus.txt", "--sites", "resid"], "Unknown site"),
        (["harvest", "--text", "corpus.txt", "--sites", "pattern"], "not stored"),
        (["harvest", "--text", "corpus.txt", "--store-dtype", "int3"], "Cannot store"),
        (["harvest", "--text", "corpus.txt", "--budget", "lots"], "is not a size"),
        (["harvest", "--text", "corpus.txt", "--workers", "2"], "serial executor"),
        (["harvest", "--text", "corpus.txt", "--cache", "corpus.txt"], "corpus.txt"),
    ],
)
def test_bad_input_gets_one_sentence(words: list[str], message: str) -> None:
    result = obverse(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_stopped_harvest_goes_on(tmp_path: Path) -> None:
    Path("long.txt").write_text(
        "\n".join(f"{Path('corpus.txt').read_text()}"[i:] for i in range(25))
    )
    command = ["harvest", "--text", "long.txt", "--context", "20"]
    command += ["--sites", "resid_post,mlp_act,q,k,v,z"]
    process = Process("experiments.cli", command, tmp_path, environment())
    deadline = time.monotonic() + 60
    while not list(Path("activations/shards").glob("*/*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate(timeout=60)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 130, said
    assert "run the same command again to go on" in said
    with ActivationStore("activations") as store:
        assert not store.verify().findings
        before = store.size()
    assert before > 0
    done = obverse(*command)
    assert done.exit_code == 0, done.output
    with ActivationStore("activations") as store:
        assert store.size() > before


def test_numbers_and_layers_are_read() -> None:
    assert [parse_count(text) for text in ("7", "500k", "1.5M", "2B")] == [
        7,
        500_000,
        1_500_000,
        2 * 10**9,
    ]
    assert choose_sites("z, q", "0,2-3", 4) == ["z.0", "z.2", "z.3", "q.0", "q.2", "q.3"]
    assert choose_sites("z", "all", 2) == ["z.0", "z.1"]
    assert number_ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert layer_ranges(["z.3", "z.1", "z.2"]) == "1–3"
    # A store from somebody else may hold anything.
    assert layer_ranges(["z.3", "z.x", "odd", "z.9999999999999"]) == "3, 9999999999999, odd, x"
    with pytest.raises(StorageError):
        choose_sites("z", "3-1", 4)


def test_the_meter_counts_from_where_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("experiments.cli.progress.time.monotonic", lambda: now[0])
    meter = Meter(1000)
    assert meter.describe(4000, 10_000) == "4 k of 10 k tokens, 4 MB of 10 MB"
    now[0] += 10
    assert (
        meter.describe(6000, 10_000)
        == "6 k of 10 k tokens, 200 tokens/s, 6 MB of 10 MB, about 20.0 s left"
    )


def test_a_study_uses_the_store_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def run_study(*_: object, **__: object) -> None:
        seen.append(os.environ.get("OBVERSE_CACHE"))
        raise StorageError("That is enough.")

    monkeypatch.setattr("experiments.runner.run_study", run_study)
    # So that the variable is put back afterwards.
    monkeypatch.setenv("OBVERSE_CACHE", "elsewhere")
    assert obverse("run", "reversal-curse", "--cache", "mine").exit_code == 2
    assert obverse("run", "reversal-curse").exit_code == 2
    assert seen == [str(tmp_path / "mine"), str(tmp_path / "mine")]
