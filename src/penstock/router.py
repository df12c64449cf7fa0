"""The router: handlers registered by stream and event type, and run together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from penstock._routing.handlers import check_defaults, specify
from penstock._routing.registry import Registry
from penstock._tasks.consumer_set import ConsumerSet, health_of
from penstock._tasks.hooks import Hooks, checked_hook
from penstock._tasks.running_router import Running
from penstock.codecs import Codec
from penstock.consumer import Consumer
from penstock.credentials import Credentials
from penstock.durations import Duration
from penstock.errors import ConfigurationError, UsageError
from penstock.events import OnEvent
from penstock.health import Health
from penstock.middleware import Middleware, checked
from penstock.options import (
    AutoCommit,
    Batch,
    Claim,
    Commit,
    Mode,
    OnShards,
    Ordering,
    Owned,
    Ownership,
    Prefetch,
    StartAt,
)
from penstock.outgoing import OnSend
from penstock.retention import Retention
from penstock.retries import DeadLetters, Retry

if TYPE_CHECKING:
    import svcs

__all__ = ["Router"]

F = TypeVar("F", bound=Callable[..., object])
H = TypeVar("H", bound=Callable[[], Awaitable[object]])


class Defaults(TypedDict, total=False):
    """The options that a router can set for all its handlers; see `Consumer`."""

    credentials: Credentials | None
    field: str
    auto_commit: AutoCommit | str
    ownership: Owned | Ownership | str
    prefetch: Prefetch
    max_message_bytes: int
    commit: Commit
    claim: Claim
    retry: Retry | None
    dead_letters: DeadLetters | str | None
    dead_letter_retention: Retention | None
    mkstream: bool
    open_timeout: Duration
    close_timeout: Duration
    on_event: OnEvent
    on_send: Iterable[OnSend]


class HandlerOptions(Defaults, total=False):
    """Further options of a single handler's consumer; see `Consumer`."""

    name: str | None
    mode: Mode | str | None
    start: StartAt | str | None
    payload: Any
    codec: Codec[Any] | None
    shards: int | Iterable[int] | None
    on_assigned: OnShards | None
    on_revoked: OnShards | None
    on_lost: OnShards | None


class Router:
    """A set of handlers, and the consumers that they need.

    A router is a plain value: you create it, register handlers, and run it. It connects
    only when it runs, and a program may have several routers.

    Args:
        url: The server, as for `Consumer`; `run`, `running` and `start` can override
            it. Default: the environment's `REDIS_URL`.
        middleware: Wraps all handlers, outside of their own middleware; see
            `Middleware`.
        services: Makes the services that handlers ask for by `Inject`; needs `pip
            install 'penstock[inject]'`. Default: none.
        **defaults: Options of `Consumer` for all handlers that don't override them:
            `field`, `auto_commit`, `ownership`, `prefetch`, `max_message_bytes`,
            `commit`, `claim`, `retry`, `dead_letters`, `dead_letter_retention`,
            `mkstream`, `open_timeout`, `close_timeout`, `on_event`, `on_send`. The
            default of `ownership` is `"auto"` for handlers with an ordering, so that it
            holds across processes.

    Raises:
        ConfigurationError: An option is unknown or invalid.

    Example:
        ```python
        router = Router()

        @router.handler("orders", group="billing", concurrency=8)
        async def bill(order: Order) -> None: ...

        await router.run("redis://localhost")
        ```
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        middleware: Iterable[Middleware[Any]] = (),
        services: svcs.Registry | None = None,
        **defaults: Unpack[Defaults],
    ) -> None:
        check_defaults(defaults, Defaults.__annotations__.keys())
        self._url = url
        self._registry = Registry(defaults, checked(middleware), services)
        # The last run; None before the first.
        self._running: Running | None = None
        # Called with the consumers of each run, and the producers that handlers are
        # given, before they open.
        self._observers: list[Callable[[Sequence[Any]], None]] = []
        # Further gauges: the family, the labels and what returns the present value.
        self._gauges: list[
            tuple[str, tuple[tuple[str, str], ...], Callable[[], float]]
        ] = []

    def handler(
        self,
        *streams: str,
        group: str | None = None,
        event: str | None = None,
        event_header: str = "type",
        concurrency: int = 1,
        ordering: Ordering | str = Ordering.NONE,
        batch: Batch | int | None = None,
        middleware: Iterable[Middleware[Any]] = (),
        **options: Unpack[HandlerOptions],
    ) -> Callable[[F], F]:
        """Register a handler for streams; a decorator that returns it unchanged.

        The handler's first parameter is given the message or its payload. If it is
        annotated with `Message[Order]`, the handler is called with the message; with
        any other type, with the payload as that type; with `list[...]` of either and
        `batch=`, with a list of them. Without an annotation, it is called with the
        message if the parameter is named `message` or `msg`, else with the payload,
        both as bytes. Further parameters have defaults, or are filled: by a service
        (`Inject[Database]`), the router's `Producer`, a `Transaction` that is applied
        when the handler returns, or the `Message`.

        Handlers for different events of the same streams and group share a consumer;
        all their options must be equal, except `payload`, `codec` and `middleware`. A
        message goes to the handler for the type in its header `event_header`, or else
        to the handler without `event`. If there is none, the message is acknowledged,
        and each such type is reported once (`unhandled`).

        Args:
            *streams: The streams' names.
            group: The consumer group; without one, every consumer sees all messages.
            event: The event type that is handled; default: all types without another
                handler.
            event_header: The header that holds the type; default `"type"`.
            concurrency: How many handlers run at a time, as in `Consumer.run`; default
                1.
            ordering: Which messages are handled in order, as in `Consumer.run`; default
                `"none"`.
            batch: Handle messages in batches, as in `Consumer.run`; not together with
                `event`.
            middleware: Wraps this handler, inside of the router's middleware.
            **options: The options of `Consumer`. `payload` overrides the annotation,
                but must not contradict it.

        Raises:
            ConfigurationError: The function is not a valid handler, an option is
                invalid, or these messages have a handler already.
            UsageError: The router is running, or included in another one.

        Example:
            ```python
            @router.handler("orders", group="audit", event="order.created")
            async def audit(message: Message[OrderCreated]) -> None: ...
            ```
        """

        def registered(function: F) -> F:
            self._check_idle()
            spec = specify(
                function,
                streams,
                {"group": group, **options},
                event=event,
                header=event_header,
                concurrency=concurrency,
                ordering=ordering,
                batch=batch,
                middleware=checked(middleware),
            )
            self._registry.add(spec)
            return function

        return registered

    def on_start(self, hook: H) -> H:
        """Register a function that is called before the consumers open; a decorator.

        This is the place to open pools and clients that handlers use; `on_stop` closes
        them. It is called once for each run, in each worker of `penstock run`, and in
        the event loop that the handlers run in. Several are called one after the other
        in the order of their registration, those of included routers in their place.

        If one raises, no consumer is opened, the `on_stop` hooks are called, and the
        exception is raised from `run`, `start` or `async with`. `stop` does not
        interrupt it. Cancelling the run cancels it, and the `on_stop` hooks are called.

        Args:
            hook: An async function without parameters.

        Raises:
            ConfigurationError: The function is not async, or needs arguments.
            UsageError: The router is running, or included in another one.

        Example:
            ```python
            @router.on_start
            async def connect() -> None:
                app.pool = await create_pool()
            ```
        """
        self._check_idle()
        self._registry.add_hooks(Hooks(on_start=(checked_hook(hook, "on_start"),)))
        return hook

    def on_stop(self, hook: H) -> H:
        """Register a function that is called when the consumers have closed.

        A decorator. By then no handler runs, and all outcomes have been sent. Several
        are called one after the other, in the reverse order of their registration. All
        are called, however the run has ended: also if it was cancelled, if a consumer
        has failed, if another `on_stop` hook has raised, and if an `on_start` hook has
        raised. So one must expect that what it closes was never opened.

        Together they have 10 seconds; after that they are cancelled. What the first of
        them raises, or `TimeoutError`, is raised from `run`, `aclose` or `async with`.
        If a consumer has failed, that error is raised, and this one is a note of it.

        Args:
            hook: An async function without parameters.

        Raises:
            ConfigurationError: The function is not async, or needs arguments.
            UsageError: The router is running, or included in another one.

        Example:
            ```python
            @router.on_stop
            async def disconnect() -> None:
                if app.pool is not None:
                    await app.pool.close()
            ```
        """
        self._check_idle()
        self._registry.add_hooks(Hooks(on_stop=(checked_hook(hook, "on_stop"),)))
        return hook

    def include(self, other: Router) -> None:
        """Add the handlers and hooks of another router, for example of another module.

        The options that the other router sets for its handlers are kept; this router's
        options apply where the other one sets none. This router's middleware runs
        outside of the other's. The other router's URL is not used. A router can be
        included in several others, but no handlers can be added to it afterwards,
        because the routers that include it would miss them.

        Raises:
            ConfigurationError: Some messages have a handler already.
            UsageError: This router is running, or included itself.
        """
        if other is self:
            raise ConfigurationError("a router can't include itself; pass another one")
        self._check_idle()
        self._registry.include(other._registry)

    def check_workers(self, workers: int) -> None:
        """Check that the handlers can run in several processes at once.

        `penstock run --workers` does so before it starts. `ordering="key"` and
        `"shard"` hold across processes if shards are owned, which needs a stream that
        has shards. Whether it has any is known when the router has opened: if not, and
        there are several workers, `run` raises ConfigurationError.

        Args:
            workers: The number of processes that run this router.

        Raises:
            ConfigurationError: A handler of a group has an ordering, its options don't
                go together with owned shards, and there is more than one process.

        Example:
            ```python
            router.check_workers(int(os.environ.get("WEB_CONCURRENCY", "1")))
            ```
        """
        self._registry.check_workers(workers)

    def _check_idle(self) -> None:
        if self._consumer_set is not None:
            raise UsageError("this router is running; add handlers before it runs")

    async def run(
        self, url: str | None = None, *, on_ready: Callable[[], object] | None = None
    ) -> None:
        """Handle messages until `stop` is called.

        All consumers are opened before the first message is handled. When one of them
        fails permanently, the others drain, and its error is raised. When one consumer
        alone is closed by other code, a `UsageError` is raised.

        Cancelling it cancels the handlers; their messages are not acknowledged, and
        other consumers receive them. To let the handlers finish, call `stop`.

        Args:
            url: The server; default: the router's own.
            on_ready: Called once all consumers are open.

        Raises:
            ConfigurationError: There is no handler, or the URL is wrong.
            UsageError: The router is running already.
            PenstockError: A consumer can't be opened, or failed permanently; see
                `Consumer`.

        Example:
            ```python
            loop.add_signal_handler(signal.SIGTERM, router.stop)
            await router.run("redis://localhost")
            ```
        """
        running = self.running(url)
        async with running:
            if on_ready is not None and running.ready:
                on_ready()
            await running.wait()

    def running(self, url: str | None = None) -> Running:
        """Handle messages in the background of a block, or from `start` to `aclose`.

        Entering the block returns once all consumers are open, or `stop` was called.
        Leaving it lets handlers finish, as `stop` does, also when the block raises.
        Cancelling the block cancels the handlers.

        When a consumer fails permanently, the block is cancelled, the other consumers
        drain, and the error is raised from `async with`. The cancellation goes to the
        task that has entered the block; if another task leaves it, use `start`.

        Args:
            url: The server; default: the router's own.

        Returns:
            An object to enter, or to start and close.

        Raises:
            ConfigurationError: On entering: there is no handler, or the URL is wrong.
            UsageError: On entering: the router is running already.
            PenstockError: On entering or leaving: a consumer can't be opened, or failed
                permanently.

        Example:
            ```python
            @asynccontextmanager
            async def lifespan(app):
                async with router.running():
                    yield
            ```
        """
        return Running(repr(self), partial(self._begin, url))

    async def start(self, url: str | None = None) -> None:
        """Handle messages in the background until `aclose` or `stop`.

        Returns once all consumers are open, or `stop` was called. Any task may call
        `aclose`. Cancelling `start` closes the consumers that are open, and then raises
        the cancellation.

        When a consumer fails permanently, `consumer_failed` is reported to `on_event`
        at once, the other consumers drain, and `aclose` raises the error.

        Args:
            url: The server; default: the router's own.

        Raises:
            ConfigurationError: There is no handler, or the URL is wrong.
            UsageError: The router is running already.
            PenstockError: A consumer can't be opened.

        Example:
            ```python
            await router.start("redis://localhost")
            ...
            await router.aclose()
            ```
        """
        await self.running(url).start()

    async def aclose(self) -> None:
        """Drain as `stop` does, and wait for the end; any task may call it.

        While the router is not running it does nothing. If a handler calls it, or a
        task that a handler has started, it returns at once. Cancelling it ends the wait
        only: the router drains all the same.

        Raises:
            UsageError: It was called in another event loop or thread; use `stop` there.
            PenstockError: A consumer has failed permanently, and the router was opened
                by `start`.
        """
        if self._running is not None:
            await self._running.aclose()

    def _begin(self, url: str | None, running: Running) -> ConsumerSet:
        """Create the consumers of a run."""
        if self._consumer_set is not None:
            raise UsageError("this router is running already; create another one")
        consumer_set = self._registry.consumer_set(self._url if url is None else url)
        self._running = running
        consumers = [member.consumer for member in consumer_set.members]
        for observe in self._observers:
            observe([*consumers, *consumer_set.producers])
        return consumer_set

    @property
    def _consumer_set(self) -> ConsumerSet | None:
        """The consumers, while they are opening, open or closing."""
        return None if self._running is None else self._running.consumer_set

    def stop(self) -> None:
        """Drain: stop reading, let handlers finish, commit, and release the rest.

        Returns at once; `run` returns when the draining is done. Handlers have the
        `close_timeout` of their consumer to finish; those that take longer are
        cancelled, and their messages released. It can be called from anywhere: a
        handler, a signal handler, another thread. While the router is not running it
        does nothing.
        """
        if self._consumer_set is not None:
            self._consumer_set.stop()

    @property
    def consumers(self) -> tuple[Consumer[Any], ...]:
        """The consumers that are open, for example to query their statistics or lag."""
        return () if self._consumer_set is None else self._consumer_set.open

    @property
    def ready(self) -> bool:
        """Whether all consumers are open and connected, and none is draining.

        Connected means that the server has owed none of them an answer for more than 15
        seconds, see `Consumer.silent_for`: shorter outages don't count. Nor has the
        event loop stood still for longer than that. Any thread may ask.
        """
        return self._consumer_set is not None and self._consumer_set.ready

    def health(self) -> Health:
        """Return whether messages can be handled, why not, and what each consumer does.

        It is what `GET /health` of `penstock run` answers, for one worker. Any thread
        may ask, also while the event loop stands still; nothing is asked of the server.

        In a process that also serves HTTP, don't make its readiness depend on this
        unless every request needs the server: an outage would take all of it away.

        Example:
            ```python
            health = router.health()
            if not health.ready:
                print(health.why)  # no answer from the server for 41 s
            ```
        """
        return health_of(self._consumer_set)

    def __repr__(self) -> str:
        state = "idle" if self._consumer_set is None else "running"
        return f"<Router of {len(self._registry.handlers)} handlers, {state}>"
