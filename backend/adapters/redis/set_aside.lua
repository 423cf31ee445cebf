-- Moves entries from one stream to another, each once. Those that are gone already have been moved by somebody else.
--
-- KEYS  1 the stream   2 where they go
-- ARGV  the ids of the entries

for i = 1, #ARGV do
    local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
    if found[1] then
        redis.call('XADD', KEYS[2], '*', unpack(found[1][2]))
        redis.call('XDEL', KEYS[1], ARGV[i])
    end
end
return { #ARGV }
