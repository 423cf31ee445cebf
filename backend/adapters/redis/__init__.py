"""The Redis adapters: many processes decide together, in one script and one round trip each.

    keys.py          every key's spelling
    connection.py    the client: bounded pool, bounded waits
    scripts.py       the one door: runs the ``.lua`` files beside it, behind a breaker
    wire.py          what the admission scripts are sent, and what they answer

Redis 6.2 or Valkey. The instance must not evict keys that have no time to live, and should not evict at all
(``maxmemory-policy noeviction``): an evicted counter comes back from the ledger, an evicted limit is whole again.
"""

from backend.adapters.redis.admission import RedisAdmission
from backend.adapters.redis.connection import connect
from backend.adapters.redis.login_throttle import RedisLoginThrottle
from backend.adapters.redis.scripts import ScriptRunner

__all__ = ["RedisAdmission", "RedisLoginThrottle", "ScriptRunner", "connect"]
