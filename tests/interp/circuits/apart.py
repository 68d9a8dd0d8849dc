"""Hugging Face's own model as a calculator of its parts, whatever the architecture.

What a reader makes of a stream is read in a run of the whole model whose stream there was replaced;
what heads put out, in one whose queries, keys and values were. Neither TransformerLens nor `interp`
plays a part. Sequences are run one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.interp import surgery
from tests.interp.architectures import N_HEADS, Architecture

Streams = dict[str, Tensor]
"""By name of a writer, what it adds [position, d_model]."""
Put = dict[tuple[str, int], Callable[[Tensor], object]]


@dataclass(frozen=True)
class Run:
    """One sequence: heads' outputs by layer, and what each writer adds."""

    z: list[Tensor]
    written: Streams


class _Seen(Exception):
    """The pass has come to what was wanted."""


class Apart:
    """An architecture's model, of which any part can be asked what it makes of what."""

    def __init__(self, architecture: Architecture, *, double: bool = False) -> None:
        self.hf = architecture.build().double() if double else architecture.build()
        self.layout = architecture.layout
        self.layers = range(architecture.n_layers)
        self.n_keys = int(architecture.settings.get("num_key_value_heads", N_HEADS) or N_HEADS)
        if architecture.layout.fused == "shared":
            self.n_keys = 1

    @property
    def sources(self) -> list[str]:
        names = ["input"]
        for i in self.layers:
            names += [*(f"a{i}.h{head}" for head in range(N_HEADS)), f"m{i}"]
        return names

    def reads(self, destination: str) -> list[str]:
        if destination == "logits":
            return self.sources
        layer = int(destination[1:].split(".")[0])
        mlp = destination[0] == "m" and not self.layout.parallel
        return self.sources[: self.sources.index(destination if mlp else f"a{layer}.h0")]

    def run(self, ids: list[int]) -> Run:
        z = [self.seen(ids, ("z", i)) for i in self.layers]
        written = {"input": self.seen(ids, ("resid_pre", 0))}
        for i in self.layers:
            for head in range(N_HEADS):
                written[f"a{i}.h{head}"] = self.share(i, head, z[i], z[i])
            written[f"m{i}"] = self.seen(ids, ("mlp_out", i))
        return Run(z, written)

    @torch.no_grad()
    def share(self, layer: int, head: int, z: Tensor, of: Tensor) -> Tensor:
        """What a head adds when the norm behind has the scale that it has on `of`; an equal part
        of the bias is each head's."""
        block = self.hf.get_submodule(self.layout.blocks)[layer]
        matrix = block.get_submodule(self.layout.out_matrix)
        alone = torch.zeros_like(z)
        alone[:, head] = z[:, head]
        bias = matrix(torch.zeros_like(z).flatten(1))
        part = matrix(alone.flatten(1)) - bias + bias / N_HEADS
        if self.layout.attn_out.endswith("layernorm"):
            norm, whole = block.get_submodule(self.layout.attn_out), matrix(of.flatten(1))
            gain = norm.weight + 1 if type(norm).__name__.startswith("Gemma") else norm.weight
            epsilon = next(
                getattr(norm, n) for n in ("eps", "variance_epsilon") if hasattr(norm, n)
            )
            part = gain * part / (whole.square().mean(-1, keepdim=True) + epsilon).sqrt()
        scaled: Tensor = self.layout.scale * part
        return scaled

    def seen(self, ids: list[int], site: tuple[str, int], put: Put | None = None) -> Tensor:
        """An activation [position, …] while others are replaced; what comes after is not run."""
        kept: list[Tensor] = []

        def keep(value: Tensor) -> None:
            kept.append(value.clone())
            raise _Seen

        with contextlib.ExitStack() as stack:
            for (name, layer), change in (put or {}).items():
                stack.enter_context(surgery.intervened(self.hf, self.layout, name, layer, change))
            with surgery.intervened(self.hf, self.layout, *site, keep), contextlib.suppress(_Seen):
                surgery.logits(self.hf, ids)
        return kept[0]

    def logits(self, ids: list[int], put: Put) -> Tensor:
        """[vocabulary] at the end."""
        with contextlib.ExitStack() as stack:
            for (name, layer), change in put.items():
                stack.enter_context(surgery.intervened(self.hf, self.layout, name, layer, change))
            return surgery.logits(self.hf, ids)[-1]

    def made(self, ids: list[int], reader: str, stream: Tensor) -> tuple[tuple[str, int], Any]:
        """What a reader makes of a stream, and where that can be put; of a head, all heads'."""
        layer = int(reader[1:].split(".")[0])
        if reader[0] == "m":
            before = ("resid_pre" if self.layout.parallel else "resid_mid", layer)
            return ("mlp_out", layer), self.seen(ids, ("mlp_out", layer), {before: put(stream)})
        site = (reader[-1], layer)
        return site, self.seen(ids, site, {("resid_pre", layer): put(stream)})

    def told(self, ids: list[int], streams: Mapping[str, Tensor]) -> Tensor:
        """Logits at the end where these readers read these streams, and all else runs as ever."""
        changes: dict[tuple[str, int], list[tuple[int | None, Tensor]]] = {}
        for reader, stream in streams.items():
            if reader == "logits":
                return self.logits(ids, {("resid_post", self.layers[-1]): put(stream)})
            site, made = self.made(ids, reader, stream)
            head = None if reader[0] == "m" else int(reader.split(".h")[1].split(".")[0])
            changes.setdefault(site, []).append((head, made))

        def placed(entries: list[tuple[int | None, Tensor]]) -> Callable[[Tensor], object]:
            def change(value: Tensor) -> None:
                for head, made in entries:
                    if head is None:
                        value.copy_(made)
                    else:
                        value[:, head] = made[:, head]

            return change

        return self.logits(ids, {site: placed(entries) for site, entries in changes.items()})

    def wired(
        self,
        ids: list[int],
        base: Run,
        reference: Run,
        edges: set[tuple[str, str]],
        fixed: Streams | None = None,
    ) -> Streams:
        """By reader, the stream it reads where writers without an edge to it are the reference's.

        Args:
            base: of the same sequence; its embedding is what "input" writes.
            fixed: what some writers add, whatever they read.
        """
        now = dict(reference.written)
        now["input"] = base.written["input"]
        now.update(fixed or {})
        heard = {}

        def read(reader: str) -> Tensor:
            names = self.reads(reader)
            heard[reader] = sum(
                now[name] if (name, reader) in edges else reference.written[name] for name in names
            )
            return heard[reader]

        for i in self.layers:
            given: Put = {}
            for kind in "qkv":
                count = N_HEADS if kind == "q" else self.n_keys
                readers = [f"a{i}.h{head}.{kind}" for head in range(count)]
                made = [self.made(ids, name, read(name))[1] for name in readers]
                whole = torch.stack([value[:, head] for head, value in enumerate(made)], 1)
                given[kind, i] = put(whole)
            z = self.seen(ids, ("z", i), given)
            names = [f"a{i}.h{head}" for head in range(N_HEADS)]
            # Heads that nobody hears count as in the reference, and so do those that are fixed.
            counts = [n not in (fixed or {}) and any(s == n for s, _ in edges) for n in names]
            of = torch.where(torch.tensor(counts)[:, None], z, reference.z[i])
            for head, name in enumerate(names):
                if counts[head]:
                    now[name] = self.share(i, head, z, of)
            if f"m{i}" not in (fixed or {}):
                now[f"m{i}"] = self.made(ids, f"m{i}", read(f"m{i}"))[1]
            else:
                read(f"m{i}")
        read("logits")
        return heard


def put(value: Tensor) -> Callable[[Tensor], object]:
    return lambda seen: seen.copy_(value)
