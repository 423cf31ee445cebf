-- Notes that an account signed in from a network: its failures are forgotten, and the network is trusted for a while.
--
-- KEYS  1 the mark of trust, then the levels to forget
-- ARGV  1 seconds to keep the mark

redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
for i = 2, #KEYS do
    redis.call('DEL', KEYS[i])
end
return 1
