"""What a linear reader can decode from activations, and whether that means anything."""

from probes.causal import steering_check
from probes.collect import collect, token_counts
from probes.erasure import Eraser
from probes.features import Features
from probes.fit import fit_probes
from probes.fitting.moments import Moments
from probes.probes import Probes
from probes.report import probe_report, probe_steps
from probes.retrieval import retrieve
from probes.transfer import transfer_conditions, transfer_sites

__all__ = [
    "Eraser",
    "Features",
    "Moments",
    "Probes",
    "collect",
    "fit_probes",
    "probe_report",
    "probe_steps",
    "retrieve",
    "steering_check",
    "token_counts",
    "transfer_conditions",
    "transfer_sites",
]


def __dir__() -> list[str]:
    return sorted(__all__)
