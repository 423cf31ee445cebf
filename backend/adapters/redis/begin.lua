-- Begins a quota's counter with what the ledger holds, once.
--
-- The token was written by admit.lua when it found the counter missing, before the ledger was read. If it is gone,
-- something was flushed since and the sum may be too old: nothing begins, the next request asks again.
--
-- KEYS  1 the counter
-- ARGV  1 the token   2 units in the ledger   3 seconds to keep the counter

if redis.call('HGET', KEYS[1], 'c') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'c')
redis.call('HSET', KEYS[1], 'u', ARGV[2], 'r', 0, 'x', 0, 'p', 0)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
