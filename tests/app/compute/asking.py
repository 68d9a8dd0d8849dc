"""Requests as a job answers them, in the test's own thread."""

from __future__ import annotations

from typing import TypeVar

from app.compute import circuits
from app.compute.background import requests
from app.compute.background.request import Request
from app.compute.circuits import Measured
from app.compute.engine import Engine, ModelSpec
from experiments.explorer import Pair

T = TypeVar("T")


def answer(engine: Engine, request: Request[T]) -> T:
    """The last and best result; kept by the engine, as a job's is."""
    return engine.compute(
        request.spec, request.key, lambda model: list(request.work(model, lambda *_: None))[-1]
    )


def circuit(engine: Engine, spec: ModelSpec, pairs: tuple[Pair, ...], n_edges: int) -> Measured:
    """A circuit as its page finds it."""
    scores = answer(engine, requests.edges(spec, circuits.halves(pairs)[0]))
    return answer(engine, requests.circuit(spec, pairs, scores, n_edges))
