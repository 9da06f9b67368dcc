"""What runs in this process, and how an actor is interrupted.

An exception that is raised in another thread arrives there somewhen later.  Outside the actor it would hit Dramatiq's
worker loop, or an ack, and end the thread; so every actor's function is wrapped, an exception is raised only while a
thread is inside, and what has not arrived when it leaves is taken back.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from dramatiq.middleware.threading import raise_thread_exception

from brokers.delays import now_ms
from brokers.errors import Abort


if TYPE_CHECKING:
    # A struct that nobody decodes needs no types at run time: hence the two exceptions.
    from collections.abc import Callable, Iterator  # noqa: TC004

    import dramatiq

    from brokers.reader import KafkaMessageProxy  # noqa: TC004

R = TypeVar("R")


class Job(msgspec.Struct, eq=False):
    """A message that runs, in which thread, and since when (milliseconds of the wall clock)."""

    message: KafkaMessageProxy
    thread: int
    since_ms: int
    #: Its thread is inside the actor's function, where it may be interrupted.
    inside: bool = False
    aborted: bool = False
    #: What interrupts it just now, instead of an exception.
    stop: Callable[[], None] | None = None
    #: For the two above.  One for all jobs would make the threads of a worker wait for each other at every message.
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)


class Running:
    """The messages that run in this process.  Any thread."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}  # by thread; each thread puts and takes its own

    def begin(self, message: KafkaMessageProxy, check: Callable[[KafkaMessageProxy], None]) -> None:
        """*message* runs in this thread from now on, unless *check* raises.

        First it is here, then *check* looks; `abort` changes first, and then looks who is here: one sees the other.
        """
        thread = threading.get_ident()
        self._jobs[thread] = Job(message, thread, now_ms())
        try:
            check(message)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """What ran in this thread does so no more."""
        self._jobs.pop(threading.get_ident(), None)

    def jobs(self) -> list[Job]:
        """What runs just now, the older first."""
        return sorted(self._jobs.copy().values(), key=lambda job: job.since_ms)

    def abort(self, change: Callable[[], None], covers: Callable[[KafkaMessageProxy], bool]) -> list[Job]:
        """Make *change*, which keeps messages from beginning, and interrupt those that run; the jobs.

        A batch is not interrupted: the call is for other messages, too.
        """
        change()
        return [job for job in self.jobs() if not job.message.together and covers(job.message) and _interrupted(job)]

    def run(self, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Call *fn*, the function of an actor, so that it can be interrupted."""
        job = self._jobs.get(threading.get_ident())
        if job is None or job.inside:  # no worker's thread, or an actor that is called as a function
            return fn(*args, **kwargs)
        try:
            try:
                with job.lock:
                    job.inside = True
                    if job.aborted:
                        raise Abort
                return fn(*args, **kwargs)
            finally:
                _leave(job)
        except Abort:
            _fail(job.message)
            raise

    @contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within, to interrupt the message of this thread is to call *stop*, once; nothing is raised.

        For an actor that waits in C code, where no exception arrives, or that has something to tidy up.  *stop* is
        called in any thread, must not wait, and at once if the message is aborted already.
        """
        job = self._jobs.get(threading.get_ident())
        if job is None:  # no worker's thread
            yield
            return
        with job.lock:
            job.stop = stop
            aborted = job.aborted
        try:
            if aborted:
                stop()
            yield
        finally:
            with job.lock:
                job.stop = None


def _leave(job: Job) -> None:
    """An exception that arrives just here interrupts nothing any more."""
    while job.inside:
        try:
            with job.lock:
                if job.aborted:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(job.thread), None)
                job.inside = False
        except Abort:
            continue


def _interrupted(job: Job) -> bool:
    """Interrupt *job*; false when it is already."""
    with job.lock:
        if job.aborted:
            return False
        job.aborted = True
        if job.stop is not None:
            job.stop()
        elif job.inside:
            raise_thread_exception(job.thread, Abort)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        return True


def interruptible(actor: dramatiq.Actor[Any, Any], running: Callable[[], Running]) -> None:
    """Let *actor* be interrupted in every process; *running* is that of the process that asks."""
    fn = actor.fn

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        return running().run(fn, args, kwargs)

    actor.fn = run


def _fail(message: KafkaMessageProxy) -> None:
    """So that it is neither tried again nor told as an error of the actor; see Dramatiq's `Retries`."""
    message.fail()
    message.options["throws"] = Abort
