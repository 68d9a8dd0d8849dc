"""The jobs of this process: those that go on, with progress and a way to cancel, and those that
are over."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from app import resources, state
from app.compute.background.jobs import Job
from app.screen import live, parts
from app.text import markup, sentences
from experiments.numbers import duration

_EVERY = 1.0  # s
_LISTED = 12


def show() -> None:
    """Both lists; they are told anew every second, and nothing else of the page is."""
    live.keep_all()
    st.fragment(_lists, run_every=_EVERY)()


def _lists() -> None:
    jobs = resources.jobs()
    parts.html(
        markup.heading(
            "Running",
            "Sessions that ask the same of the same model share one job. Reloading or closing the "
            "page does not stop it, nor does going to another page once it is older than "
            "10 seconds; cancelling does, unless another session waits for it.",
        )
    )
    going = jobs.running()
    for job in going:
        _running(job)
    if not going:
        parts.html(markup.hint("Nothing is computed in the background now."))
    over = jobs.finished()
    if over:
        parts.html(markup.heading("Finished", "Their results are in memory; the oldest make room."))
        for job in over[:_LISTED]:
            _finished(job)


def _running(job: Job[Any]) -> None:
    stand, request = job.stand, job.request
    with st.container(border=True):
        parts.html(markup.item(request.title, _whose(job)))
        text = f"{duration(stand.seconds)} so far"
        if stand.total:
            left = sentences.time_left(stand.seconds_left)
            text = f"{stand.done:,} of {stand.total:,} {request.unit}{left}"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.progress(min(1.0, stand.done / max(1, stand.total)), text)
            if resources.jobs().mine(job, live.session()):
                # By the job, not by its place: while a press is on its way, others may end.
                st.button("Cancel", key=f"stop-{job.name}", on_click=live.cancel, args=(job,))


def _whose(job: Job[Any]) -> str:
    mine = live.session() in job.waiting
    others = len(job.waiting - {live.session()})
    who = "asked for here" if mine else "asked for in a session that is gone"
    if not mine and not resources.jobs().mine(job, live.session()):
        who = "asked for by another session"
    if mine and others:
        who += " and by others"
    return f"{job.model} · {who}"


def _finished(job: Job[Any]) -> None:
    stand = job.stand
    how = f"took {duration(stand.seconds)}"
    if job.was_read:
        how = "read from a run directory"
    elif stand.error is not None:
        how = f"failed: {stand.error}"
    elif stand.stopped:
        how = f"cancelled after {duration(stand.seconds)}"
    elif job.kept_in:
        how += ", kept in " + ", ".join(str(path) for path in job.kept_in)
    when = time.strftime("%H:%M:%S", time.localtime(job.begun))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        parts.html(markup.item(job.request.title, f"{job.model} · {when} · {how}"))
        st.button("Show", key=f"show-{job.name}", on_click=state.go, args=(dict(job.link),))
