-- Reads the oldest entries; they stay.
--
-- KEYS  1 the stream
-- ARGV  1 how many

return redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
