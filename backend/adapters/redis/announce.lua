-- Remembers the newest version of a tenant or a credential, never an older one.
--
-- KEYS  1 the epoch
-- ARGV  1 the version   2 seconds to keep it

local known = tonumber(redis.call('GET', KEYS[1]))
if known and known > tonumber(ARGV[1]) then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return 1
