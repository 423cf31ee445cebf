-- Counts the entries that wait.
--
-- KEYS  1 the stream

return { redis.call('XLEN', KEYS[1]) }
