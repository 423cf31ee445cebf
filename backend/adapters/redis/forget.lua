-- Forgets a quota's counter, its leases included. The next request begins it with what the ledger holds.
--
-- KEYS  1 the counter

redis.call('DEL', KEYS[1])
return 1
