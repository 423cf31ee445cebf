"""The process in which passwords are hashed: a script, with a socket as its standard input and output.

A question is a line of JSON: ``password``, the ``stored`` hash to compare it with or ``null`` to hash it, and the
parameters for that: ``memory_kib``, ``rounds``, ``parallelism``. The answer is a line too: ``{"matches": …}``,
``{"hash": …}``, or the name of an ``{"error": …}``, which quotes nothing.

The process ends with whoever started it, however that one ends: nobody is at the other end of the socket any more.
"""

import json
import os
import sys
from contextlib import suppress
from typing import Any

from passlib.hash import argon2


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Compare with a stored hash, or hash."""
    try:
        if question["stored"] is not None:
            return {"matches": argon2.verify(question["password"], question["stored"])}
        hasher = argon2.using(
            type="ID",
            memory_cost=question["memory_kib"],
            rounds=question["rounds"],
            parallelism=question["parallelism"],
        )
        return {"hash": hasher.hash(question["password"])}
    except Exception as error:  # noqa: BLE001  # whoever asked has to learn of it, and the next question comes
        return {"error": type(error).__name__}


def serve() -> None:
    """Answer until nobody asks any more."""
    with suppress(ConnectionError):
        for line in sys.stdin.buffer:
            sys.stdout.buffer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
            sys.stdout.buffer.flush()
    # Python would try once more to write what nobody takes, and complain.
    os._exit(0)


if __name__ == "__main__":
    serve()
