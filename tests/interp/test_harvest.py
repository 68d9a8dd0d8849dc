"""A harvest stores what the model computes, goes on where it stopped, and says what cannot fit."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
import torch

from cache import ActivationStore
from cache.errors import StorageError
from cache.index.queries import Index
from interp import Model, capture, load_model
from interp.errors import PromptError
from interp.harvest import harvest
from interp.prompts.corpus import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("reversal-curse")


def distinct(n: int) -> list[str]:
    """Documents that differ from each other."""
    names = ["Tom", "Kate", "Goldie", "Mary", "Lee", "Hudson", "Hawn", "Cruise"]
    return [" ".join(names[(i // 8**k) % 8] for k in range(4)) + " is" * (i % 5) for i in range(n)]


def test_what_is_stored_is_what_the_model_computes(model: Model, tmp_path: Path) -> None:
    with ActivationStore(tmp_path / "store") as store:
        done = harvest(model, distinct(40), ["resid_post", "z.1"], store, context=16)
        rows = read_rows(model, distinct(40), context=16)
        assert done.tokens == done.computed == sum(map(len, rows))
        assert list(done.keys) == done.space.keys(rows)
        assert store.missing(model, rows, ["resid_post", "z.1"]) == 0
        stored = store.rows(model, rows, "resid_post.1")["resid_post.1"]
        for ids, found in zip(rows, stored, strict=True):
            alone = capture(model, torch.tensor(ids[None].astype("int64")), "resid_post.1")
            torch.testing.assert_close(found, alone["resid_post.1"][0], rtol=1e-4, atol=1e-5)
        again = harvest(model, distinct(40), ["resid_post", "z.1"], store, context=16)
        assert again.computed == 0
        more = harvest(model, distinct(50), ["resid_post", "z.1"], store, context=16)
        assert 0 < more.computed < more.tokens
        assert not store.verify().findings


def test_a_stopped_harvest_goes_on(model: Model, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_halfway(done: int, total: int) -> None:
        if done > total / 2:
            raise Stop

    with ActivationStore(tmp_path / "store", shard_size=20_000) as store, pytest.raises(Stop):
        harvest(model, distinct(60), "resid_post", store, context=16, progress=stop_halfway)
    with ActivationStore(tmp_path / "store", shard_size=20_000) as store:
        assert not store.verify().findings
        seen: list[tuple[int, int]] = []
        done = harvest(
            model,
            distinct(60),
            "resid_post",
            store,
            context=16,
            progress=lambda *at: seen.append(at),
        )
        assert 0 < done.computed < done.tokens
        assert seen[0] == (done.tokens - done.computed, done.tokens)
        assert seen[-1] == (done.tokens, done.tokens)
        assert store.missing(model, read_rows(model, distinct(60), context=16), "resid_post") == 0


def test_rows_that_another_process_gives_up_are_computed_here(model: Model, tmp_path: Path) -> None:
    path, rows = tmp_path / "store", read_rows(model, distinct(20), context=16)
    keys = model.activation_source().space().keys(rows)
    with ActivationStore(path) as store, ActivationStore(path) as other, ExitStack() as held:
        held.enter_context(other.folder.lease(keys[:7]))
        giving_up = threading.Timer(0.5, held.close)
        seen: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            seen.append((done, total))
            if done and not giving_up.ident:
                giving_up.start()

        harvest(model, distinct(20), "resid_post", store, context=16, progress=progress)
        giving_up.join()
        assert seen[-1][0] == seen[-1][1] == sum(map(len, rows))
        assert store.missing(model, rows, "resid_post") == 0
        assert store.folder.catalogue.ask(Index.holders) == set()
        (usage, *_) = store.usage()
        assert usage.rows == len(rows)


def test_what_cannot_fit_is_refused_before_anything_runs(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("interp.forward.source.observe", observe)
    with ActivationStore(tmp_path / "store", budget="20kB") as store:
        with pytest.raises(StorageError, match=r"tokens at 2 sites take .* kB, but .* 20 kB"):
            harvest(model, distinct(40), ["resid_post.0", "z.1"], store, context=16)
        assert store.usage() == []
    with (
        ActivationStore(tmp_path / "store", floor="900PB") as store,
        pytest.raises(StorageError, match="stay free"),
    ):
        harvest(model, distinct(40), "resid_post", store, context=16)


def test_rows_follow_documents(model: Model, tmp_path: Path) -> None:
    documents = ["Tom Cruise's mother is Mary Lee Pfeiffer", "Kate Hudson's mother is Goldie Hawn"]
    bos = [model.tokenizer.bos_token_id] if model.prepends_bos else []
    whole = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents]
    rows = read_rows(model, documents, context=len(bos) + 4)
    expected = [[*bos, *ids[start : start + 4]] for ids in whole for start in range(0, len(ids), 4)]
    assert [row.tolist() for row in rows] == list(map(list, dict.fromkeys(map(tuple, expected))))
    pd.DataFrame({"text": documents}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in documents))
    (tmp_path / "a.txt").write_text(documents[0])
    for name in ("a.parquet", "a.jsonl"):
        read = read_rows(model, tmp_path / name, context=len(bos) + 4)
        assert [r.tolist() for r in read] == [r.tolist() for r in rows]
    some = read_rows(model, documents, context=len(bos) + 4, tokens=7)
    assert sum(map(len, some)) == 7
    assert read_rows(model, tmp_path / "a.txt", context=24)


def test_long_documents_are_read_in_pieces(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(distinct(300))
    whole = read_rows(model, [text], context=16)
    monkeypatch.setattr("interp.prompts.corpus.PIECE", 200)
    assert [r.tolist() for r in read_rows(model, [text], context=16)] == [r.tolist() for r in whole]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "not text in UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"words": 1}\n', "Line 2 of .* 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 of .* is not text"),
        ("a.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
def test_damaged_files_are_named(
    model: Model, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=message):
        read_rows(model, tmp_path / name, context=16)


def test_bad_input_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_rows(model, tmp_path / "none.txt", context=16)
    with pytest.raises(PromptError, match="choose a context from"):
        read_rows(model, ["Tom"], context=100_000)
    with pytest.raises(PromptError, match="no text"):
        read_rows(model, [""], context=16)
    with pytest.raises(PromptError, match="too few"):
        read_rows(model, ["Tom"], context=16, tokens=0)
