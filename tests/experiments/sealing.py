"""Checksums of a run made anew, as an edit with knowledge of them would do it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file of a run, and its checksum with it."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    seal(path.parent)


def seal(directory: Path) -> None:
    """Let stages.json fit the files that are there."""
    path = directory / "stages.json"
    stages = json.loads(path.read_text())
    for name in stages["files"]:
        if (directory / name).is_file():
            stages["files"][name] = [digest(directory / name)]
    for entry in [*stages["results"].values(), *stages["documents"].values()]:
        file = directory / entry["file"]
        if file.is_file():
            entry |= {"bytes": file.stat().st_size, "sha256": digest(file)}
    path.write_text(json.dumps(stages))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
