-- Forgets a quota's counter and its leases. The next request begins it with what the ledger holds.
--
-- KEYS  1 the counter   2 its leases

redis.call('DEL', KEYS[1], KEYS[2])
return 1
