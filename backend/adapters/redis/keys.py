"""Every Redis key of the product is spelt here.

All that belongs to a tenant carries its id as the hash tag, so that one script may touch it on Redis Cluster: a
tenant lives in one slot. What a login is counted under is tagged by account, or stands alone. What people chose or
are known by (Idempotency-Keys, accounts, networks) is hashed: a dump of Redis tells none of it.
"""

import hashlib

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, RateRule


def tenant_epoch(tenant_id: TenantId) -> str:
    """The newest announced version of a tenant."""
    return f"fc:{{{tenant_id}}}:epoch"


def credential_epoch(tenant_id: TenantId, credential_id: str) -> str:
    """The newest announced version of one credential."""
    return f"fc:{{{tenant_id}}}:epoch:{credential_id}"


def rate_level(tenant_id: TenantId, rule: RateRule) -> str:
    """What one rate limit is owed, and since when."""
    return f"fc:{{{tenant_id}}}:rate:{rule.scope}:{rule.subject}"


def quota_counter(tenant_id: TenantId, rule: QuotaRule, environment: Environment, period: str) -> str:
    """One quota's count in one month, and its leases. The period is in the name, so a new month needs no reset."""
    return f"fc:{{{tenant_id}}}:quota:{rule.scope}:{rule.subject}:{environment}:{period}"


def quota_counters(period: str) -> str:
    """What every quota's counter of one month matches."""
    return f"fc:{{*}}:quota:*:{period}"


def idempotency_slot(tenant_id: TenantId, credential_id: str, key: str) -> str:
    """The slot of one credential's Idempotency-Key."""
    return f"fc:{{{tenant_id}}}:idem:{credential_id}:{_digest(key)}"


def cached_row_prefix(tenant_id: TenantId) -> bytes:
    """Before the digest of a cached row, whatever bytes that has: no digest reaches another tenant's rows."""
    return b"fc:{%b}:row:" % tenant_id.encode()


def login_account(account: str) -> str:
    """Failed logins of one account, from anywhere."""
    return f"fc:{{login:{_digest(account)}}}"


def login_pair(account: str, network: str) -> str:
    """Failed logins of one account from one network."""
    return f"{login_account(account)}:{_digest(network)}"


def login_trust(account: str, network: str) -> str:
    """Set while a network is known to belong to the account's owner."""
    return f"{login_account(account)}:{_digest(network)}:trust"


def login_network(network: str) -> str:
    """Failed logins of one network, whatever the account."""
    return f"fc:login:net:{_digest(network)}"


def usage_spill() -> str:
    """Usage events that wait for the database, of all tenants: a drain writes them in batches."""
    return "fc:{usage}:spill"


def usage_set_aside() -> str:
    """Spilled entries that the ledger will never take."""
    return "fc:{usage}:aside"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
