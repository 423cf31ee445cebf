"""Values that every prediction makes anew: frozen to the type checker, which sees each assignment, and not at run time.

A frozen dataclass takes its own ``__setattr__`` away, so its ``__init__`` goes through ``object.__setattr__`` for each
field, which costs five times a plain assignment. A prediction fills some seventy fields.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool = False, **options: bool) -> Any:
        """As ``dataclass``; what is frozen can be hashed as ever."""
        return dataclass(unsafe_hash=frozen, **options)


__all__ = ["record"]
