"""Processes that work for this one and end with it, however it ends; one that the system kills is replaced.

`Workers` has the shape of `concurrent.futures.Executor`, and is made of `ProcessPoolExecutor`s of one process each.
If a process is killed, for want of memory say, only its pool breaks: its work is known, named and done once more, and
all other work goes on. In one pool of several processes, the standard library's or loky's, all work under way is lost.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import LifoQueue
from typing import Any, TypeVar

T = TypeVar("T")
# What unpickling raises where a class is missing or takes other arguments.
_UNREADABLE = (
    pickle.UnpicklingError,
    AttributeError,
    ImportError,
    LookupError,
    EOFError,
    TypeError,
    ValueError,
)
_environment = threading.Lock()  # guards the environment while processes are started


class WorkerDied(RuntimeError):
    """Two processes ended while they were at the same work; the message says how, and names the work."""


def end_with_parent(patience: float = 0.0) -> None:
    """Make this process end when the one that started it has ended, by whatever signal; to be called at its start.

    Args:
        patience: seconds from SIGTERM, on which work may save its state, to the end; 0 ends the process at once.
    """
    parent = parent_process()
    assert parent is not None, "this is the first process"

    def watch() -> None:
        parent.join()
        if patience:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Workers(Executor):
    """Processes that run what is submitted.

    A submitted function and its arguments have to be picklable, and it may run twice: if its process is killed, another
    one begins it anew. If that is killed as well, its future raises `WorkerDied`.

    Args:
        count: processes at a time; they are started as they are needed.
        begin: called in each of them before its first work, with `arguments`.
        arguments: for `begin`.
        environment: variables that the processes get unless this one has them.
        each: variables of process number 0, 1, ... `count` - 1, and of those that take its place.
        patience: see `end_with_parent`; also how long `stop` waits.
        report: called with one line about each process that died.
        name: from the arguments of some work, what messages call it.
    """

    def __init__(
        self,
        count: int,
        begin: Callable[..., object] | None = None,
        arguments: tuple[Any, ...] = (),
        *,
        environment: Mapping[str, str] | None = None,
        each: Callable[[int], Mapping[str, str]] = lambda number: {},
        patience: float = 0.0,
        report: Callable[[str], object] | None = None,
        name: Callable[..., str] | None = None,
    ) -> None:
        self._patience, self._report, self._name = patience, report or to_stderr, name
        absent = {key: value for key, value in (environment or {}).items() if key not in os.environ}
        begins = (patience, begin, arguments)
        self._processes = [_Process({**absent, **each(number)}, begins) for number in range(count)]
        self._idle: LifoQueue[_Process] = LifoQueue()  # those that have been started are taken first
        for process in reversed(self._processes):
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count)  # each waits for one process
        self._submitted: list[Future[Any]] = []
        self._closing = self._stopped = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        if self._closing:
            raise RuntimeError("the processes have been told to end")
        name = getattr(fn, "__name__", str(fn)) if self._name is None else self._name(*args, **kwargs)
        future: Future[T] = self._threads.submit(self._run, pickle.dumps((fn, args, kwargs)), name)
        self._submitted.append(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._closing = True
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for process in self._processes:
                process.end()

    def stop(self) -> None:
        """Ask the processes to end, and kill those that have not after `patience` seconds; nothing more is run.

        A second signal ends the waiting.
        """
        self._stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        if self._patience and self._submitted:
            self._report("stopping the other processes ...")
        try:
            for process in self._processes:
                process.signal(kill=False)
            wait([future for future in self._submitted if not future.done()], self._patience)
        finally:
            for process in self._processes:
                process.signal(kill=True)
            self.shutdown()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.stop()

    def _run(self, content: bytes, name: str) -> Any:
        """Have a process do some work, or another one if the first ends meanwhile."""
        process = self._idle.get()
        try:
            for again in (False, True):
                try:
                    answer = process.run(content)
                    break
                except BrokenExecutor as error:
                    died = f"{process.ended()} while it was at {name}"
                    if again or self._stopped:
                        raise WorkerDied(f"{died}{', for the second time' if again else ''}") from error
                    with suppress(OSError):  # nobody reads it
                        self._report(f"{died}: it is begun again")
        finally:
            self._idle.put(process)
        done, value = pickle.loads(answer)
        if done:
            return value
        raise value


class _Context(SpawnContext):
    """Starts processes by spawning, and knows the last one.

    A forked child of a process with threads or CUDA could use neither.
    """

    started: SpawnProcess

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        """A process that has not begun yet."""
        self.started = SpawnProcess(*args, **kwargs)
        return self.started


class _Process:
    """One process: started when it gets work, and anew after it has ended."""

    def __init__(self, variables: Mapping[str, str], begins: tuple[Any, ...]) -> None:
        self._variables, self._begins = variables, begins
        self._pool: ProcessPoolExecutor | None = None
        self._handle: SpawnProcess | None = None
        self._told_to_end = False

    def run(self, content: bytes) -> bytes:
        """What `_work` gives for the pickled work.

        Raises:
            BrokenExecutor: the process has ended.
        """
        if self._pool is not None:
            return self._pool.submit(_work, content).result()
        context = _Context()
        with _environment, environment_with(self._variables):
            if self._told_to_end:
                raise BrokenExecutor("told to end")
            pool = ProcessPoolExecutor(1, context, _begin, self._begins)
            future = pool.submit(_work, content)
            self._pool, self._handle = pool, context.started
        return future.result()

    def ended(self) -> str:
        """Which process has ended, and how; the next work starts another one."""
        self.end()
        if self._handle is None:
            return "a process was told to end"
        self._handle.join()
        status, which = self._handle.exitcode, f"process {self._handle.pid}"
        if status is not None and status < 0:
            why = " (out of memory?)" if status == -getattr(signal, "SIGKILL", 0) else ""
            return f"{which} was ended by {signal.Signals(-status).name}{why}"
        return f"{which} ended" if status is None else f"{which} ended with status {status}"

    def end(self) -> None:
        """End it once it is idle."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def signal(self, *, kill: bool) -> None:
        """Ask it to end, or kill it; no other takes its place."""
        with _environment:
            self._told_to_end = True
            if self._pool is not None and self._handle is not None:
                (self._handle.kill if kill else self._handle.terminate)()


def _begin(patience: float, begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """The first thing that a process does."""
    end_with_parent(patience)
    if begin is not None:
        begin(*arguments)


def _work(content: bytes) -> bytes:
    """Do some work; whatever it raises, its future raises when asked for the result."""
    function, args, kwargs = pickle.loads(content)
    try:
        return pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001
        error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
        return _packed(error)


def _packed(error: BaseException) -> bytes:
    try:
        content = pickle.dumps((False, error))
        pickle.loads(content)  # errors whose arguments are not those of their class cannot be made again
    except (*_UNREADABLE, pickle.PicklingError):
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def to_stderr(line: str) -> None:
    """Write a line to the error stream at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def environment_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables; they are as before when the block is left."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
