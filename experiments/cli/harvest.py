"""`obverse harvest`: fill an activation store from a corpus."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cache.errors import StorageError
from cache.sizes import show_size
from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say
from experiments.cli.progress import metered
from experiments.numbers import count, duration

__all__ = ["harvest"]

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmb]?)", re.IGNORECASE)
_MOST_TOKENS = 1e15
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@guarded(stopped="Stopped; run the same command again to go on.")
def harvest(
    text: options.Corpus,
    model: options.ModelName = "reversal-curse",
    sites: Annotated[
        str, typer.Option(help="Kinds of activations, such as resid_post or z,mlp_out.")
    ] = "resid_post",
    layers: Annotated[str, typer.Option(help="all, or such as 0,3,6 or 4-8.")] = "all",
    tokens: options.Tokens = None,
    context: options.RowLength = None,
    cache: options.StorePath = options.DEFAULT_STORE,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What the store may take, such as 200GB; beyond that the oldest is evicted.",
            show_default="as much as the disk allows",
        ),
    ] = None,
    dtype: options.Dtype = "float32",
    store_dtype: Annotated[
        str | None,
        typer.Option(help="Of what is stored.", show_default="that of the weights"),
    ] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    revision: options.Revision = None,
    executor: options.ExecutorName = options.ExecutorKind.serial,
    workers: options.Workers = None,
    address: options.Address = None,
) -> None:
    """Run a model over a corpus and store its activations.

    What is stored already is not computed again, so a harvest that was stopped goes on with the
    same command. What cannot fit is refused before anything is run.

    Examples:

    - `obverse harvest --text corpus.txt --tokens 10M`
    - `obverse harvest --model gpt2 --text corpus.jsonl --layers 4-8 --dtype bf16 --budget 200GB`
    - `obverse harvest --text corpus.txt --executor processes --workers 4`
    """
    say(f"Loading {model} …")
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    executed_by = options.make_executor(executor, workers, address)
    wanted = None if tokens is None else parse_count(tokens)

    from cache.store import ActivationStore
    from interp import load_model
    from interp.harvest import bytes_of_token
    from interp.harvest import harvest as run

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
    named = choose_sites(sites, layers, loaded.n_layers)
    size = bytes_of_token(loaded, named, store_dtype)
    with ActivationStore(cache, budget) as store, metered(size) as progress:
        say(f"Reading {text} …")
        done = run(
            loaded,
            text,
            named,
            store,
            tokens=wanted,
            context=context,
            dtype=store_dtype,
            executor=executed_by,
            progress=progress,
        )
    if done.computed == 0:
        say(f"All {count(done.tokens)} tokens were stored before; nothing to compute.")
    else:
        say(
            f"{count(done.computed)} tokens run in {duration(done.seconds)}, "
            f"{count(done.computed / max(done.seconds, 1e-9))} tokens/s"
        )
    if wanted is not None and done.tokens < wanted:
        say(f"The corpus holds no more than {done.tokens:,} tokens in different rows.")
    say(f"Stored: {show_size(done.bytes)} at {len(done.sites)} sites in {cache}")
    say(f"See:    obverse cache ls --cache {cache}")


def parse_count(written: str) -> int:
    """A number such as "500k" or "10M".

    Raises:
        StorageError: it is none.
    """
    match = _COUNT.fullmatch(written.strip())
    number = float(match[1]) * _SCALES[match[2].lower()] if match else 0.0
    tokens = int(number) if number < _MOST_TOKENS else 0
    if tokens <= 0:
        raise StorageError(f"'{written}' is not a number of tokens; write it like 500k or 10M.")
    return tokens


def choose_sites(sites: str, layers: str, n_layers: int) -> list[str]:
    """Sites at layers, written out: "resid_post.0", ….

    Raises:
        StorageError: the layers are not written as the help says.
    """
    chosen = choose_layers(layers, n_layers)
    return [f"{site.strip()}.{layer}" for site in sites.split(",") for layer in chosen]


def choose_layers(layers: str, n_layers: int) -> list[int]:
    """The layers that "all", "0,3,6" or "4-8" stands for, ascending.

    Raises:
        StorageError: they are not written so, or the model has no such layer.
    """
    chosen: list[int] = []
    for part in ("0-" + str(n_layers - 1) if layers == "all" else layers).split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise StorageError(f"'{layers}' are not layers; write 'all', '0,3,6' or '4-8'.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= n_layers:
            raise StorageError(
                f"There is no layer {last}; the model's {n_layers} layers have the numbers 0 to "
                f"{n_layers - 1}."
            )
        chosen += range(first, last + 1)
    return sorted(set(chosen))
