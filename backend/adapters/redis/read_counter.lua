-- Reads a quota's counter: units used, and how often it was repaired.
--
-- KEYS  1 the counter

return redis.call('HMGET', KEYS[1], 'u', 'd')
