"""Where the numbers of a run come from: versions, model, inputs, device, times.

It names no user, no host, no environment variable, and no path but what the user typed as the
model.
"""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import RunError
from experiments.run_directory.layout import PROVENANCE, to_json
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.schema import check_provenance, parse, read

if TYPE_CHECKING:
    from interp.model.model import Model

__all__ = ["Provenance", "code_revision", "package_versions"]

_PACKAGES = (
    "obverse",
    "torch",
    "transformer-lens",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "xarray",
    "h5py",
)


@dataclass(frozen=True)
class Provenance:
    """The content of provenance.json."""

    started: str
    """Time of the first start, ISO 8601, UTC."""
    finished: str | None
    versions: dict[str, str]
    """Of Python, of Obverse and of the libraries that compute."""
    platform: str
    """Operating system and processor type: "Linux x86_64"."""
    git: dict[str, Any] | None
    """Revision of the code and whether it was changed since; None outside a git checkout."""
    device: dict[str, str] | None = None
    """What the model ran on; None while no model was loaded."""
    model: dict[str, Any] | None = None
    """Source, name, fingerprint, tokenizer and revision; None while no model was loaded."""
    inputs: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files the study read, by the setting that named them."""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """Later starts that went on with it: time, versions, git, where these had changed."""

    @classmethod
    def begin(cls) -> Provenance:
        """The provenance of a run that starts now, with this code on this machine."""
        return cls(
            started=_now(),
            finished=None,
            versions=package_versions(),
            platform=f"{platform.system()} {platform.machine()}",
            git=code_revision(),
        )

    @classmethod
    def load(cls, directory: Path, manifest: Manifest) -> Provenance:
        """Read provenance.json.

        Raises:
            RunError: it is damaged, or not what the run wrote.
            StorageError: it cannot be read.
        """
        path = directory / PROVENANCE
        data = read(path)
        fields = check_provenance(parse(data, path), path)
        if not manifest.is_file(PROVENANCE, data):
            raise RunError(
                f"'{path}' is damaged (it does not match its checksum in stages.json); run the "
                "study again with --fresh."
            )
        return cls(**fields)

    def save(self, manifest: Manifest) -> None:
        """Write provenance.json."""
        manifest.write_file(PROVENANCE, to_json(dataclasses.asdict(self)))

    def resume(self) -> tuple[Provenance, list[str]]:
        """The provenance of the same run going on now, and a sentence for each change of code."""
        versions, git = package_versions(), code_revision()
        changes = [
            f"{name} was {self.versions.get(name, 'absent')} when this run started and is "
            f"{versions.get(name, 'absent')} now"
            for name in sorted({*self.versions, *versions})
            if self.versions.get(name) != versions.get(name)
        ]
        if self.git != git:
            changes.append("The code is not at the git revision this run started with")
        note: dict[str, Any] = {"at": _now()}
        if changes:
            note |= {"versions": versions, "git": git}
        return dataclasses.replace(self, finished=None, resumed=[*self.resumed, note]), changes

    def with_model(self, model: Model, revision: str | None) -> Provenance:
        """Note the model. Raises RunError if the results so far are of another one."""
        if self.model is not None and self.model.get("fingerprint") != model.fingerprint:
            raise RunError(
                f"'{model.source}' is not the model this run was started with (its weights "
                "changed); start over with --fresh, or choose another --out."
            )
        tokenizer = model.tokenizer_fingerprint
        if self.model is not None and self.model.get("tokenizer", tokenizer) != tokenizer:
            raise RunError(
                f"The tokenizer of '{model.source}' is not the one this run was started with; "
                "start over with --fresh, or choose another --out."
            )
        noted = {"source": model.source, "name": model.name, "fingerprint": model.fingerprint}
        noted["tokenizer"] = tokenizer
        return dataclasses.replace(
            self, model={**noted, "revision": revision}, device=_device(model)
        )

    def with_input(self, setting: str, digest: str) -> Provenance:
        """Note an input file. Raises RunError if the results so far are of another content."""
        if self.inputs.get(setting, digest) != digest:
            raise RunError(
                f"What was given as '{setting}' changed since this run was started; start over "
                "with --fresh, or choose another --out."
            )
        return dataclasses.replace(self, inputs={**self.inputs, setting: digest})

    def finish(self) -> Provenance:
        """The provenance of a run that is finished now."""
        return dataclasses.replace(self, finished=_now())


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_revision() -> dict[str, Any] | None:
    """The git revision of Obverse's own code: {"revision", "changed"}.

    None where the package does not stand at the top of a git checkout: the revision of whatever
    project it is installed in says nothing about it.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    revision = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    if revision is None or status is None:
        return None
    return {"revision": revision.strip(), "changed": bool(status.strip())}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout


def _device(model: Model) -> dict[str, str]:
    device = str(model.device)
    noted = {"type": device}
    if device.startswith("cuda"):
        import torch

        noted["name"] = torch.cuda.get_device_name(model.device)
    return noted


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
