-- Settles leases of one tenant together: each is turned into use as in settle.lua, and the rows are put in the cache.
-- Each counter is read and written once, however many they are. Doing it twice changes nothing.
--
-- KEYS  for each set of quotas a counter for each quota, then the rows to fill
-- ARGV  1 milliseconds to keep a row   2 sets of quotas
--       then for each set: its quotas   how many leases   the leases, none twice, as "rows:lease id"
--       then the rows
-- How counters are stored stands in admit.lua. The caller bounds how many there are: Lua's stack holds
-- some 8000 values.

local key, arg = 0, 2

for _ = 1, tonumber(ARGV[2]) do
    local quotas, count = tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
    local first = arg + 3
    local last = first + count - 1
    local costs = {}
    for i = 1, count do
        costs[i] = tonumber(string.match(ARGV[first + i - 1], '^%d+'))
    end
    for _ = 1, quotas do
        key = key + 1
        local state = redis.call('HMGET', KEYS[key], 'u', 'r', 'p', unpack(ARGV, first, last))
        -- A counter that is gone, or has not begun, will begin with what the ledger holds: these events included.
        if state[1] then
            local given_back_until, used, reserved = tonumber(state[3]), 0, 0
            for i = 1, count do
                local expiry = tonumber(state[3 + i])
                -- A lease that is not there has been settled or given back.
                if expiry then
                    used = used + costs[i]
                    if expiry > given_back_until then reserved = reserved + costs[i] end
                end
            end
            redis.call('HSET', KEYS[key], 'u', tonumber(state[1]) + used, 'r', tonumber(state[2]) - reserved)
            redis.call('HDEL', KEYS[key], unpack(ARGV, first, last))
        end
    end
    arg = last
end

local row_ms = ARGV[1]
for i = 1, #KEYS - key do
    redis.call('SET', KEYS[key + i], ARGV[arg + i], 'PX', row_ms)
end
return 1
