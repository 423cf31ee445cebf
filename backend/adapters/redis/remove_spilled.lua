-- Removes entries.
--
-- KEYS  1 the stream
-- ARGV  their ids, a few hundred at most

return { redis.call('XDEL', KEYS[1], unpack(ARGV)) }
