"""Finding a backend: one pluggy hook, in pytest and without it.

Whoever brings a backend implements the hook, marked or not, under its own name::

    def pytest_arl_backend(name, settings):
        return MyBackend(settings) if name == "mine" else None

in a conftest.py or a pytest plugin, or in the module of an entry point of group ``pytest_arl``, which is also found
where no pytest runs. ``--arl-backend mine`` then chooses it. The built-in ``local`` and
``kubernetes`` are asked last.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import pluggy

from pytest_arl.errors import UsageError
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_arl.backends.base import Backend
    from pytest_arl.settings import Settings

__all__ = [
    "HookSpecs",
    "close_backends",
    "get_backend",
    "known_backends",
    "register",
    "set_pytest_hook",
    "unregister",
]

_GROUP = "pytest_arl"
_BUILT_IN = ("kubernetes", "local")
_HOOKS = ("pytest_arl_backend", "pytest_arl_backend_names")
# pytest's own project name: one implementation, marked with pytest.hookimpl or not at all, serves both managers.
_hookspec = pluggy.HookspecMarker("pytest")
_hookimpl = pluggy.HookimplMarker("pytest")
_logger = logging.getLogger("pytest_arl")


class HookSpecs:
    """The hooks; the plugin hands this class to ``pluginmanager.add_hookspecs``."""

    @_hookspec(firstresult=True)
    def pytest_arl_backend(self, name: str, settings: Settings) -> Backend | None:
        """Make the backend of that name, or return None where it is not yours. Called once for a process."""

    @_hookspec
    def pytest_arl_backend_names(self) -> Sequence[str]:  # type: ignore[empty-body] # a hook's specification has none
        """Names that you make backends for: what the message about an unknown name lists."""


class _BuiltIn:
    """The backends of this package."""

    @_hookimpl(trylast=True)
    def pytest_arl_backend(self, name: str, settings: Settings) -> Backend | None:
        if name not in _BUILT_IN:
            return None
        # By name: this module is imported by every session, an engine only by those that use it.
        backend: Backend = importlib.import_module(f"pytest_arl.backends.{name}").create_backend(settings)
        return backend

    @_hookimpl
    def pytest_arl_backend_names(self) -> Sequence[str]:
        return _BUILT_IN


class _Manager(pluggy.PluginManager):
    """Takes unmarked functions of the hooks' names too, as pytest does."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        opts = super().parse_hookimpl_opts(plugin, name)
        if opts is None and name in _HOOKS:
            return {
                "wrapper": False,
                "hookwrapper": False,
                "optionalhook": False,
                "tryfirst": False,
                "trylast": False,
                "specname": None,
            }
        return opts


class _Backends:
    """The backends that this process has made, one of each name and configuration."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._manager: _Manager | None = None
        self._pytest_hook: Any = None
        self._made: dict[tuple[object, ...], Backend] = {}

    def manager(self) -> _Manager:
        with self._lock:
            if self._manager is None:
                manager = _Manager("pytest")
                manager.add_hookspecs(HookSpecs)
                manager.register(_BuiltIn(), "pytest_arl built-in")
                manager.load_setuptools_entrypoints(_GROUP)
                self._manager = manager
            return self._manager

    def use_pytest(self, hook: Any) -> Any:
        with self._lock:
            previous, self._pytest_hook = self._pytest_hook, hook
            return previous

    def get(self, name: str, settings: Settings) -> Backend:
        __tracebackhide__ = True
        key = (name, *_what_backends_read(settings))
        with self._lock:
            backend = self._made.get(key)
            if backend is None:
                backend = self._made[key] = self._make(name, settings)
            return backend

    def _make(self, name: str, settings: Settings) -> Backend:
        __tracebackhide__ = True
        for caller in self._callers("pytest_arl_backend"):
            backend: Backend | None = caller(name=name, settings=settings)
            if backend is not None:
                return backend
        source = settings["backend"].source if settings.value("backend") == name else "backend="
        raise UsageError(
            f"there is no backend {name!r} ({source}); {hint(name, self.names())}; "
            "a plugin or conftest.py adds one with the hook pytest_arl_backend"
        )

    def names(self) -> tuple[str, ...]:
        names = {
            str(name) for caller in self._callers("pytest_arl_backend_names") for found in caller() for name in found
        }
        return tuple(sorted(names))

    def _callers(self, hook: str) -> list[Callable[..., Any]]:
        """The implementations to ask, in order: pytest's plugins and conftests, then entry points and the built-in."""
        relays = [self._pytest_hook] if self._pytest_hook is not None else []
        callers = [getattr(relay, hook, None) for relay in (*relays, self.manager().hook)]
        return [caller for caller in callers if caller is not None]

    def close(self) -> None:
        with self._lock:
            made, self._made = list(self._made.values()), {}
        for backend in made:
            try:
                backend.close()
            except Exception:  # the others must be closed all the same
                _logger.exception("closing the backend %r failed", getattr(backend, "name", backend))

    def forget_after_fork(self) -> None:
        """A child shares no sandbox with its parent: it makes backends of its own, and closes none of these."""
        self._lock = threading.RLock()
        self._made = {}


def _what_backends_read(settings: Settings) -> tuple[object, ...]:
    """The settings that a backend is made with; the others change from session to session."""
    project = None if settings.project is None else settings.project.path
    names = ("isolation_min", "pools_file", "kubeconfig", "context")
    return (*map(settings.value, names), project, settings.start_dir, settings.files)


_backends = _Backends()
atexit.register(_backends.close)
os.register_at_fork(after_in_child=_backends.forget_after_fork)


def get_backend(name: str, settings: Settings) -> Backend:
    """The process's backend of that name, made on first use; UsageError with the known names where there is none."""
    __tracebackhide__ = True
    return _backends.get(name, settings)


def known_backends() -> tuple[str, ...]:
    """Names of the backends there are, sorted."""
    return _backends.names()


def close_backends() -> None:
    """Close every backend that was made, and with them every sandbox. Idempotent; the next use makes new ones."""
    _backends.close()


def register(plugin: object, name: str | None = None) -> None:
    """Ask ``plugin`` for backends too, where no pytest runs."""
    _backends.manager().register(plugin, name)


def unregister(plugin: object) -> None:
    """Ask ``plugin`` no more. Backends that it made stay until :func:`close_backends`."""
    _backends.manager().unregister(plugin)


def set_pytest_hook(hook: Any) -> Any:
    """Ask pytest's plugins and conftests first: ``hook`` is ``config.hook``, None to stop; returns what was there."""
    return _backends.use_pytest(hook)
