"""Components by name: the ones that ship, found by walking a package, and a user's own, by import path."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from advae.errors import ConfigError, nearest

T = TypeVar("T", bound=type)

_allowed: set[str] = {"advae"}


def allow(*packages: str) -> None:
    """Let saved models and recipes import classes from these packages.

    A file from disk or the hub may name a class by import path. Importing runs that package's code, so it
    happens only for packages that the user has named here (the command's ``--allow``) or imported already.
    """
    _allowed.update(packages)


class Registry(Generic[T]):
    """A table from short names to classes.

    Args:
        kind: what the classes are, for messages ("network").
        package: the package whose modules register themselves when imported.
        base: what every class here is a subclass of; no other is ever called.
    """

    def __init__(self, kind: str, package: str, base: type) -> None:
        self.kind, self.package, self.base = kind, package, base
        self._classes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: make the class known as ``name``."""

        def add(cls: T) -> T:
            if name in self._classes:
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._classes[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._classes)

    def find(self, name: str) -> T:
        """The class called ``name``, or at that import path (``my_package.nets.MyEncoder``).

        Raises:
            ConfigError: there is none; the message has the nearest name.
        """
        if not isinstance(name, str):
            raise ConfigError(f"a {self.kind} is chosen by its name", given=repr(name))
        if name in self._classes or name in self.names():
            return self._classes[name]
        if "." in name:
            return _import_class(name, self.kind, self.base)
        raise ConfigError(f"there is no {self.kind} called {name!r}", remedy=nearest(name, self.names()))

    def build(self, spec: dict[str, Any], /, **required: Any) -> Any:
        """An instance from ``{"name": …, option: value, …}``; ``required`` are the arguments the house adds."""
        options = {key: value for key, value in spec.items() if key != "name"}
        cls = self.find(spec["name"])
        known = self.options(cls)
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"the {self.kind} {spec['name']!r} has no option {key!r}", remedy=nearest(key, known)
                )
        try:
            return cls(**required, **options)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ConfigError(
                f"the {self.kind} {spec['name']!r} cannot be made of its options",
                given=f"{options}, and it says: {type(error).__name__}: {first}",
            ) from error

    @staticmethod
    def options(cls: type) -> list[str]:
        """Names of the arguments that ``cls`` takes."""
        return [p for p in inspect.signature(cls).parameters if p != "self"]


def _import_class(path: str, kind: str, base: type) -> Any:
    module_name, _, attribute = path.rpartition(".")
    package = module_name.partition(".")[0]
    if package not in _allowed and module_name not in sys.modules:
        raise ConfigError(
            f"the {kind} {path!r} is outside advae, and loading it would run its code",
            remedy=f"if you trust it, pass --allow {package} (or call advae.allow({package!r}) first)",
        )
    try:
        cls = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the {kind} {path!r} cannot be imported",
            given=str(error),
            remedy="check the path, and that its package is installed or on PYTHONPATH",
        ) from error
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise ConfigError(f"{path!r} is no {kind}", given=cls, expected=f"a subclass of {base.__qualname__}")
    return cls
