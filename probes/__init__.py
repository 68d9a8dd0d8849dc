"""What a linear reader can decode from activations, and whether that means anything."""

from probes.collect import collect
from probes.features import Features
from probes.fit import fit_probes
from probes.probes import Probes
from probes.report import probe_report

__all__ = ["Features", "Probes", "collect", "fit_probes", "probe_report"]
