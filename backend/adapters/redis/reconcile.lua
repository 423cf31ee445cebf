-- Repairs a quota's counter by what the ledger says, when the difference cannot be explained by requests under way.
--
-- Whatever is in the ledger has been counted as used, or its lease still runs, or its settlement was lost: only the
-- last is added. What was counted and is in the ledger nowhere has been found by the caller, who read the counter
-- first: it is taken off unless somebody has repaired the counter since. So doing it twice changes nothing.
--
-- KEYS  1 the counter
-- ARGV  1 units in the ledger   2 units counted that the ledger does not hold   3 repairs when the counter was read
--
-- Answers {units added; negative when taken off}. How counters are stored stands in admit.lua.

local state = redis.call('HMGET', KEYS[1], 'u', 'd')
if not state[1] then return { 0 } end
local used, repairs = tonumber(state[1]), tonumber(state[2] or '0')
local time = redis.call('TIME')

local under_way = 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    local rows = string.match(fields[i], '^(%d+):')
    if rows and tonumber(fields[i + 1]) > tonumber(time[1]) then under_way = under_way + tonumber(rows) end
end

local change = tonumber(ARGV[1]) - used - under_way
if change <= 0 then
    change = 0
    if repairs == tonumber(ARGV[3]) then change = -math.min(tonumber(ARGV[2]), used) end
end
if change ~= 0 then
    redis.call('HINCRBY', KEYS[1], 'u', change)
    redis.call('HINCRBY', KEYS[1], 'd', 1)
end
return { change }
