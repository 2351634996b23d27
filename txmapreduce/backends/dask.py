"""
The backend for many machines: a cluster of Dask distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed

from .._tasks.runner import Program
from ..errors import BackendUnavailable, BadInput
from . import Listener
from ._dask.connection import Connection, new_client
from ._dask.session import DaskSession

__all__ = ["Dask"]


class Dask:
    """
    A cluster of Dask distributed, which somebody has started: C{dask scheduler} and C{dask worker}, on Kubernetes,
    Slurm, YARN or by SSH.

    The connection is made when a run first needs it, and stays until the backend is closed or the reactor stops. Use it
    as C{async with Dask(address) as cluster}, in a script or a notebook as C{with Dask(address) as cluster}, or just
    pass it as C{backend=} and L{close} it at the end.
    """

    task_seconds = 0.2
    """A task costs the scheduler, the workers and us some milliseconds."""

    def __init__(
        self,
        cluster: Any,
        *,
        files: Iterable[str | os.PathLike[str]] = (),
        security: Any = None,
        timeout: float = 60,
        reactor: Any = None,
    ) -> None:
        """
        @param cluster: the address of the scheduler (C{"tcp://host:8786"}, C{"tls://..."}, C{"host:8786"}), the path of
            the file that C{dask scheduler --scheduler-file} has written, a cluster object such as C{LocalCluster}, or a
            C{distributed.Client}, which is used as it is and never closed.
        @param files: the paths of C{.py}, C{.zip} or C{.egg} files with modules that functions come from and that are
            not installed on the cluster. They are sent to all workers, to those that come later, too.
        @param security: a C{distributed.Security}, as a C{Client} takes it: for TLS. Default: what Dask's configuration
            says.
        @param timeout: seconds to wait for the scheduler, and for a worker to be there. Default 60.
        @param reactor: default: the installed one, when first needed.
        @raise BadInput: a value that can't be used.
        """
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout > 0:
            raise BadInput(f"timeout has to be a number of seconds above 0, not {timeout!r}")
        if isinstance(cluster, os.PathLike):
            cluster = os.fspath(cluster)
        if isinstance(cluster, (int, float, bytes, type(None))) or cluster == "":
            raise BadInput(f"Dask takes a scheduler's address, its file, a cluster or a Client, not {cluster!r}")
        if isinstance(files, (str, bytes, os.PathLike)):
            raise BadInput(f"files has to be a list of paths, not {files!r}")
        self._files = [os.path.abspath(os.fspath(file)) for file in files]
        for file in self._files:
            if not os.path.isfile(file) or not file.endswith((".py", ".zip", ".egg")):
                raise BadInput(f"{file} is no .py, .zip or .egg file that could be sent to the workers")
        self._cluster = cluster
        self._security = security
        self._timeout = timeout
        self._reactor = reactor
        self._connection: Connection | None = None
        self._closed = False
        self._trigger: Any = None

    def open(
        self, program: Program, functions: Mapping[str, Any], listener: Listener, after: DaskSession | None = None
    ) -> DaskSession:
        """
        Begin a run; see L{Backend.open}.

        @raise BadInput: the policy says C{trust="data"}.
        """
        if program.plain_result:
            raise BadInput(
                'trust="data" can\'t be had on Dask, which itself unpickles what workers send: '
                "use Processes, or a cluster that you trust"
            )
        return DaskSession(self._connected(), program, functions, listener, self._timeout, after)

    def _connected(self) -> Connection:
        if self._closed:
            raise BackendUnavailable("this Dask backend is closed: make a new one")
        if self._connection is None or self._connection.error is not None:
            connect, name, own = self._client()
            if self._reactor is None:
                from twisted.internet import reactor

                self._reactor = reactor
            self._connection = Connection(self._reactor, connect, name, own, self._files)
            if self._trigger is None:
                self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        return self._connection

    def _client(self) -> tuple[Callable[[], Any], str, bool]:
        """
        What gives the client, what to call the cluster, and whether the client is ours.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise BackendUnavailable("Dask needs distributed: pip install 'txmapreduce[dask]'") from error
        cluster, security, timeout = self._cluster, self._security, self._timeout
        if isinstance(cluster, Client):
            if cluster.asynchronous:
                raise BadInput("a Client that was made with asynchronous=True can't be used here: make a plain one")
            return (lambda: cluster), str(cluster.scheduler.address if cluster.scheduler else cluster), False
        options: dict[str, Any] = {"timeout": timeout, "security": security, "set_as_default": False}
        if isinstance(cluster, str) and os.path.exists(cluster):
            return (lambda: new_client(scheduler_file=cluster, **options)), cluster, True
        if isinstance(cluster, str) and (os.sep in cluster.rpartition("://")[2] or cluster.endswith(".json")):
            raise BackendUnavailable(f"there is no scheduler file {cluster}: start a scheduler that writes it")
        name = cluster if isinstance(cluster, str) else str(getattr(cluster, "scheduler_address", cluster))
        return (lambda: new_client(cluster, **options)), name, True

    def close(self) -> Deferred[None]:
        """
        Take no more runs, and close the connection. Runs under way fail.

        @return: fires when it is closed.
        """
        self._closed = True
        if self._trigger is not None:
            trigger, self._trigger = self._trigger, None
            self._reactor.removeSystemEventTrigger(trigger)
        connection, self._connection = self._connection, None
        return succeed(None) if connection is None else connection.close()

    def _stop(self) -> Deferred[None]:
        self._trigger = None
        return self.close()

    def __enter__(self) -> Dask:
        return self

    def __exit__(self, *exc_info: object) -> None:
        from .._blocking import blocking

        blocking(self.close)

    async def __aenter__(self) -> Dask:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .._blocking import settle

        await settle(self.close)

    def __repr__(self) -> str:
        return f"Dask({self._cluster!r})"
