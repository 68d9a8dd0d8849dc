"""Connecting to Ray: to a cluster that runs, or to a local instance that is started and ended."""

from __future__ import annotations

import contextlib
import inspect
import ipaddress
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from interp.errors import ExecutionError, first_sentence
from interp.execute.settings import cores
from interp.execute.signals import signals_held

__all__ = ["Connection", "connected_to", "import_ray"]

# Units and results are small; without this Ray sets a third of the memory aside.
_OBJECT_STORE_BYTES = 256 << 20
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_REMOVE = 3.0
# Ray reads it when it is first imported: "0" lets it listen on the loopback interface alone, as it
# does on other systems than Linux. Whoever reaches one of its ports can run code.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class Connection:
    """This process' connection to Ray, made on a thread that stays until it is closed.

    On the main thread Ray would take SIGTERM for itself, which may mean something here; and what
    Ray starts ends with the thread that has started it.

    Raises:
        ExecutionError: nothing answers at the address, Ray cannot be had on this machine alone, or
            a signal came while it started.
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        address = _meant(address)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._closed = threading.Event()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            self._start(max(cores(), workers or 0))
        else:
            _check_reachable(address)
            self._join(address)

    def close(self) -> None:
        """Leave the cluster; end a local instance wholly, and remove its folder."""
        import ray

        folder, self._folder = self._folder, None
        wait = {"wait_for_processes": True} if folder is not None else {}
        if "wait_for_processes" not in inspect.signature(ray.shutdown).parameters:
            wait = {}  # before Ray 2.5x
        with contextlib.suppress(Exception):
            ray.shutdown(**wait)
        self._closed.set()
        if folder is not None:
            deadline = time.monotonic() + _SECONDS_TO_REMOVE
            folder.cleanup()
            # A process that is about to end may write its last line meanwhile.
            while os.path.exists(folder.name) and time.monotonic() < deadline:
                time.sleep(0.1)
                shutil.rmtree(folder.name, ignore_errors=True)

    def _start(self, n_cpus: int) -> None:
        _check_loopback()
        # What Ray has started it ends only once it has started all of it: a signal waits for that.
        with signals_held() as waiting:
            # It holds logs and sockets. It is in /tmp as Ray's own, since a socket's path must be
            # short, but not in /tmp/ray, which may be somebody else's.
            self._folder = tempfile.TemporaryDirectory(
                prefix="obverse-ray-", dir="/tmp", ignore_cleanup_errors=True
            )
            try:
                self._init(
                    address="local",
                    num_cpus=n_cpus,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=self._folder.name,
                )
                if waiting:
                    raise ExecutionError("A signal ended this while Ray was starting; start again.")
            except BaseException:
                self.close()
                raise

    def _join(self, address: str) -> None:
        try:
            self._init(address=address)
        except Exception as error:  # Ray raises several unrelated types here
            self.close()
            why = first_sentence(error).rstrip(".")
            raise ExecutionError(
                f"Ray cannot connect to '{address}' ({why}); check that the cluster runs, "
                "with the same versions of Python and Ray."
            ) from error

    def _init(self, **settings: Any) -> None:
        import ray

        made = threading.Event()
        failed: list[BaseException] = []

        def keep() -> None:
            try:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
            except BaseException as error:
                failed.append(error)
                return
            finally:
                made.set()
            self._closed.wait()

        threading.Thread(target=keep, name="obverse-ray", daemon=True).start()
        made.wait()
        if failed:
            raise failed[0]


def import_ray(address: str | None) -> Any:
    """Ray, imported so that a local instance, where one is meant, listens on this machine only."""
    if _meant(address) is not None or "ray" in sys.modules:
        import ray

        return ray
    before = os.environ.get(_LOOPBACK)
    os.environ[_LOOPBACK] = "0"
    try:
        import ray
    finally:
        if before is None:
            del os.environ[_LOOPBACK]
        else:
            os.environ[_LOOPBACK] = before
    return ray


def _meant(address: str | None) -> str | None:
    """The address of a cluster, or None for a local instance."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def connected_to() -> str:
    """The address of the cluster that this process is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _check_loopback() -> None:
    """See that what is started now would listen on this machine only."""
    import ray

    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        raise ExecutionError(
            "Ray was imported with settings by which a local instance could be reached from other "
            f"machines; set {_LOOPBACK}=0 before, or connect to Ray yourself (ray.init())."
        )


def _check_reachable(address: str) -> None:
    """Tell at once what Ray would try for a minute."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or whatever else Ray makes of it
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ExecutionError(
            f"Nothing answers at '{address}' ({error.strerror or error}); give the address that "
            "'ray start --head' printed, or leave it out for a local instance."
        ) from error
