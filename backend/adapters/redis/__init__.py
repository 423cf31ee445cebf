"""The Redis adapters: many processes decide together, in one script and one round trip each.

    keys.py          every key's spelling
    address.py       what FORECOURT_REDIS_URL may look like
    connection.py    the line to what an address names
    line.py          what a line carries: the ``.lua`` files beside it, plain reads and writes
    coalescing.py    a line that asks once for everybody; dialing.py opens its connection
    cluster.py       a line to Redis Cluster
    scripts.py       the one door: a line behind a breaker
    wire.py          what the admission scripts are sent, and what they answer
    settling.py      many leases settled at once

Redis 6.2 or Valkey. The instance must not evict keys that have no time to live, and should not evict at all
(``maxmemory-policy noeviction``): an evicted counter comes back from the ledger, an evicted limit is whole again.
"""

from backend.adapters.redis.address import UnusableRedisUrl
from backend.adapters.redis.admission import RedisAdmission
from backend.adapters.redis.connection import open_line
from backend.adapters.redis.login_throttle import RedisLoginThrottle
from backend.adapters.redis.scripts import ScriptRunner

__all__ = ["RedisAdmission", "RedisLoginThrottle", "ScriptRunner", "UnusableRedisUrl", "open_line"]
