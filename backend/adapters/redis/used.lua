-- Reads what is settled on one quota's counter.
--
-- KEYS  1 the counter
-- Answers {rows}, or {nil} for a counter that is gone or has not begun. How counters are stored stands in admit.lua.

return { redis.call('HGET', KEYS[1], 'u') }
