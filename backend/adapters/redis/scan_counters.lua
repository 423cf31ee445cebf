-- Walks the keys of this server that match a pattern, some at a time.
--
-- ARGV  1 where to go on, 0 to begin   2 the pattern   3 about how many keys to look at
--
-- Answers {where to go on, 0 at the end, key, …}.

local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local reply = { found[1] }
for _, key in ipairs(found[2]) do
    reply[#reply + 1] = key
end
return reply
