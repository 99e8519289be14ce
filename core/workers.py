"""Processes that work for this one, end with it however that ends, and are replaced when the system ends one of them.

`Workers` has the shape of `concurrent.futures.Executor`. Unlike `ProcessPoolExecutor` it knows what each process was
at: where one is killed, for want of memory say, that work is named and done once more, and all other work goes on.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

T = TypeVar("T")
# What unpickling raises where a class is not there, or its arguments are others.
_UNREADABLE = (
    pickle.UnpicklingError,
    AttributeError,
    ImportError,
    LookupError,
    EOFError,
    TypeError,
    ValueError,
)
# What keeps a process from being started.
_NOT_STARTED = (OSError, MemoryError, pickle.PicklingError, AttributeError, TypeError)
_environment = threading.Lock()  # of this process, while others are started


class WorkerDied(RuntimeError):
    """A process ended twice while it was at the same work; the message says how, and names the work."""


def end_with_parent(patience: float = 0.0) -> None:
    """Have this process end when the one that started it has ended, by whatever signal; to be called at its start.

    Args:
        patience: seconds to end by SIGTERM, for work that saves its state then; after them, or with 0, it just ends.
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


@dataclass
class _Task:
    future: Future[Any]
    content: bytes  # the function and its arguments
    name: str
    deaths: int = 0


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: _Task | None = None


class Workers(Executor):
    """Processes that run what is submitted.

    A function that is submitted and its arguments are picklable, and it may run twice: where its process is killed, it
    is begun anew in another one. A second time makes its future raise `WorkerDied`.

    Args:
        count: processes at a time; they are started as they are needed.
        begin: called in each of them before its first work, with `arguments`.
        arguments: see there.
        environment: variables that the processes get where this one does not have them.
        patience: see `end_with_parent`; also how long `stop` waits.
        report: is told of a process that died, in a line.
        name: what messages call some work, from its arguments.
    """

    def __init__(
        self,
        count: int,
        begin: Callable[..., object] | None = None,
        arguments: tuple[Any, ...] = (),
        *,
        environment: Mapping[str, str] | None = None,
        patience: float = 0.0,
        report: Callable[[str], object] | None = None,
        name: Callable[..., str] | None = None,
    ) -> None:
        self._count, self._begin, self._arguments = count, begin, arguments
        self._variables, self._patience = dict(environment or {}), patience
        self._report, self._name = report or _to_stderr, name
        # Not forked: a forked child of a process with threads or CUDA can use neither.
        self._context = get_context("spawn")
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        self._closing = self._stopped = False
        self._bell, self._ring = self._context.Pipe(duplex=False)
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        name = getattr(fn, "__name__", str(fn)) if self._name is None else self._name(*args, **kwargs)
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("the processes have been told to end")
            self._waiting.append(_Task(future, pickle.dumps((fn, args, kwargs)), name))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True)
                self._thread.start()
        self._ring.send_bytes(b"!")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._closing = True
            while cancel_futures and self._waiting:
                task = self._waiting.pop()
                if not task.future.cancel():  # it was to be begun again
                    task.future.set_exception(WorkerDied(f"a process ended while it was at {task.name}"))
        if self._thread is not None:
            self._ring.send_bytes(b"!")
            if wait:
                self._thread.join()

    def stop(self) -> None:
        """Ask the processes to end, and kill those that have not after `patience` seconds; nothing more is run.

        A second signal ends the waiting.
        """
        self._stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        if self._thread is None:
            return
        if self._patience:
            self._report("stopping the other processes ...")
        try:
            for worker in list(self._workers):
                worker.process.terminate()
            self._thread.join(self._patience)
        finally:
            for worker in list(self._workers):
                worker.process.kill()
            self._thread.join()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.stop()

    def _serve(self) -> None:
        """The thread that hands out work and takes in what came of it."""
        while True:
            self._hand_out()
            with self._lock:
                busy = [worker for worker in self._workers if worker.task is not None]
                if not busy and (self._stopped or (self._closing and not self._waiting)):
                    break
            # An idle process that dies is found when it gets work.
            for ready in wait([self._bell, *(worker.pipe for worker in busy)]):
                if ready is self._bell:
                    self._bell.recv_bytes()
                else:
                    self._take_in(next(worker for worker in busy if worker.pipe is ready))
        for worker in self._workers:
            worker.pipe.close()  # which ends it
        for worker in self._workers:
            worker.process.join()

    def _hand_out(self) -> None:
        with self._lock:
            wanted = sum(worker.task is not None for worker in self._workers) + len(self._waiting)
        # All that are needed at once: long work is taken over only when a process is ready for it.
        with suppress(*_NOT_STARTED):
            while len(self._workers) < min(self._count, wanted) and not self._stopped:
                self._start()
        while not self._stopped:
            with self._lock:
                idle = next((worker for worker in self._workers if worker.task is None), None)
                if not self._waiting or (idle is None and len(self._workers) >= self._count):
                    return
                task = self._waiting.popleft()
            if not task.deaths and not task.future.set_running_or_notify_cancel():
                continue
            try:
                worker = idle or self._start()
            except _NOT_STARTED as error:
                task.future.set_exception(error)
                continue
            worker.task = task
            try:
                worker.pipe.send_bytes(task.content)
            except OSError:
                self._bury(worker)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._begin, self._arguments, self._patience), daemon=False
        )
        with _environment, _added(self._variables):
            process.start()
        theirs.close()  # so that its end is the end of the pipe
        worker = _Worker(process, ours)
        self._workers.append(worker)
        if self._stopped:  # in the meantime
            process.kill()
        return worker

    def _take_in(self, worker: _Worker) -> None:
        assert worker.task is not None
        try:
            answer = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        future, worker.task = worker.task.future, None
        try:
            done, value = pickle.loads(answer)
        except _UNREADABLE as error:
            done, value = False, error
        if done:
            future.set_result(value)
        else:
            future.set_exception(value)

    def _bury(self, worker: _Worker) -> None:
        """Of a process that has ended: do its work again, once."""
        worker.process.join()
        worker.pipe.close()
        task = worker.task
        assert task is not None
        with self._lock:
            self._workers.remove(worker)
        died = f"process {worker.process.pid} {_how(worker.process.exitcode)} while it was at {task.name}"
        task.deaths += 1
        if task.deaths > 1 or self._stopped:
            task.future.set_exception(
                WorkerDied(f"{died}{', for the second time' if task.deaths > 1 else ''}")
            )
            return
        with suppress(OSError):  # nobody reads it
            self._report(f"{died}: it is begun again")
        with self._lock:
            self._waiting.appendleft(task)


def _work(
    pipe: Connection, begin: Callable[..., object] | None, arguments: tuple[Any, ...], patience: float
) -> None:
    """What a process does from its start to its end."""
    end_with_parent(patience)
    if begin is not None:
        begin(*arguments)
    while True:
        try:
            function, args, kwargs = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = pickle.dumps((True, function(*args, **kwargs)))
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised where the future is asked
            error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
            answer = _packed(error)
        with suppress(BrokenPipeError):  # nobody waits any more
            pipe.send_bytes(answer)


def _packed(error: BaseException) -> bytes:
    try:
        content = pickle.dumps((False, error))
        pickle.loads(content)  # errors whose arguments are not those of their class cannot be made again
    except (*_UNREADABLE, pickle.PicklingError):
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        why = " (out of memory?)" if status == -getattr(signal, "SIGKILL", 0) else ""
        return f"was ended by {signal.Signals(-status).name}{why}"
    return f"ended with status {status}"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _added(variables: Mapping[str, str]) -> Iterator[None]:
    wanted = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]
