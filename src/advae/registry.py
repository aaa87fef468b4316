"""Registries: built-in components by name, a user's own by import path."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from advae.errors import ConfigError, first_line, nearest

T = TypeVar("T", bound=type)

_allowed_packages: set[str] = {"advae"}


def allow(*packages: str) -> None:
    """Let saved models and recipes import classes from these packages.

    A file from disk or the hub may name a class by import path. Importing it runs the package's code, which happens
    only for packages that the user has named here (the command's ``--allow``) or imported already.
    """
    _allowed_packages.update(packages)


class Registry(Generic[T]):
    """A table from short names to classes.

    Args:
        kind: what the classes are, for error messages ("network").
        package: the package whose modules register classes when imported.
        base: the base class of all classes here; no other class is instantiated.
    """

    def __init__(self, kind: str, package: str, base: type) -> None:
        self.kind, self.package, self.base = kind, package, base
        self._classes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a class decorator that registers the class as ``name``."""

        def add(cls: T) -> T:
            if name in self._classes:
                raise ValueError(f"The {self.kind} {name!r} is registered twice.")
            self._classes[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return add

    def names(self) -> list[str]:
        """Return all registered names, sorted, after importing the modules of the package."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._classes)

    def find(self, name: str) -> T:
        """Return the class called ``name``, or at that import path (``my_package.nets.MyEncoder``).

        Raises:
            ConfigError: the name is unknown, or its package is not allowed.
        """
        if not isinstance(name, str):
            raise ConfigError(f"A {self.kind} is chosen by its name.", given=repr(name))
        if name in self._classes or name in self.names():
            return self._classes[name]
        if "." in name:
            return _import_class(name, self.kind, self.base)
        raise ConfigError(f"Unknown {self.kind} {name!r}.", fix=nearest(name, self.names()))

    def build(self, spec: dict[str, Any], /, **required: Any) -> Any:
        """Return an instance from ``{"name": …, option: value, …}`` and the arguments that the caller computes."""
        options = {key: value for key, value in spec.items() if key != "name"}
        cls = self.find(spec["name"])
        known = self.options(cls)
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"The {self.kind} {spec['name']!r} has no option {key!r}.", fix=nearest(key, known)
                )
        try:
            return cls(**required, **options)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The {self.kind} {spec['name']!r} cannot be built from its options.",
                given=f"{options}: {first_line(error)}",
            ) from error

    @staticmethod
    def options(cls: type) -> list[str]:
        """Return the names of the arguments that ``cls`` takes."""
        return [p for p in inspect.signature(cls).parameters if p != "self"]


def check_import_allowed(path: str, kind: str) -> None:
    """Check that importing what a file names by ``path`` runs no code of a package that the user has not named.

    Raises:
        ConfigError: the package is neither allowed nor imported already.
    """
    module_name = path.rpartition(".")[0]
    if not _is_allowed(module_name) and module_name not in sys.modules:
        package = module_name.partition(".")[0]
        raise ConfigError(
            f"The {kind} {path!r} is not part of advae, and importing it would run its code.",
            fix=f"if you trust the package, pass --allow {package} (or call advae.allow({package!r}))",
        )


def _is_allowed(module_name: str) -> bool:
    return module_name.partition(".")[0] in _allowed_packages


def _import_class(path: str, kind: str, base: type) -> Any:
    check_import_allowed(path, kind)
    module_name, _, attribute = path.rpartition(".")
    try:
        if _is_allowed(module_name):
            cls = getattr(importlib.import_module(module_name), attribute)
        else:  # not by getattr: a module's __getattr__ may import other modules
            cls = vars(sys.modules[module_name])[attribute]
    except Exception as error:  # of the module's own code, too
        raise ConfigError(
            f"The {kind} {path!r} cannot be imported.",
            given=first_line(error),
            fix="check the path, and that its package is installed or on PYTHONPATH",
        ) from error
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise ConfigError(
            f"{path!r} is not a {kind}.", given=cls, expected=f"a subclass of {base.__qualname__}"
        )
    return cls
