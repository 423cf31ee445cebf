-- Ends a request: turns its lease into use or gives it back, answers or frees its idempotency slot, fills the cache.
-- Doing it twice changes nothing, because the lease is there only once. One that expired meanwhile still counts, once.
--
-- KEYS  a counter for each quota, then the idempotency slot if one is held, then the rows to fill
-- ARGV  1 now (negative: ask the server)   2 'settle' or 'release'   3 rows leased   4 the lease's id
--       5 quotas   6 whether a slot is held   7 seconds to keep the answer   8 milliseconds to keep a row
--       9 status, empty without an answer   10 headers   11 body   then the rows
-- How counters and slots are stored stands in admit.lua.

local now, settles, cost, lease_id = tonumber(ARGV[1]), ARGV[2] == 'settle', tonumber(ARGV[3]), ARGV[4]
local quotas, holds_slot = tonumber(ARGV[5]), ARGV[6] == '1'

if now < 0 then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local lease = ARGV[3] .. ':' .. lease_id
for i = 1, quotas do
    local state = redis.call('HMGET', KEYS[i], 'u', 'r', 'p', lease)
    -- A lease that is not there has been settled or given back. Or its counter is gone, which will begin with what the
    -- ledger holds: this event included.
    if state[4] then
        local used, reserved = tonumber(state[1]), tonumber(state[2])
        if settles then used = used + cost end
        if tonumber(state[4]) > tonumber(state[3]) then reserved = reserved - cost end
        redis.call('HSET', KEYS[i], 'u', used, 'r', reserved)
        redis.call('HDEL', KEYS[i], lease)
    end
end

local next_key = quotas + 1
if holds_slot then
    local slot = KEYS[next_key]
    next_key = next_key + 1
    local held = redis.call('HMGET', slot, 'l', 's')
    if held[1] == lease_id and not held[2] then
        if ARGV[9] ~= '' then
            redis.call('HSET', slot, 'x', now + tonumber(ARGV[7]), 's', ARGV[9], 'h', ARGV[10], 'b', ARGV[11])
            redis.call('EXPIRE', slot, math.ceil(tonumber(ARGV[7])))
        else
            redis.call('DEL', slot)
        end
    end
end

for i = next_key, #KEYS do
    redis.call('SET', KEYS[i], ARGV[12 + i - next_key], 'PX', ARGV[8])
end
return 1
