-- Decides several requests of one credential at once, in their order, as admit.lua would one after the other: as many
-- as can be admitted from the first on. It knows only the usual case; whatever else there is about a credential (it
-- is stale or fresh, a counter has not begun, a lease has expired, it is another month) is for admit.lua, which is
-- asked for each request by itself then, and for those that do not fit. How everything is stored stands there.
--
-- KEYS  epochs and levels, all rows of all requests, then the counters: what is read at once stands together, since
--       each command costs a script as much as what it does
-- ARGV  1 numbers, as for admit.lua
--       2 rows asked for by each request, packed likewise
--       then each request's lease, as "rows:lease id"
--
-- Answers {admitted, standing, row, …}: how many, then where things stood before (now, then rows owed now to each rate
-- limit, then used and reserved of each quota), then all cached rows. {0} says that all have to ask by themselves.

local TOLERANCE = 1e-6 -- ROW_TOLERANCE in domain/limits.py
local NOBODY = { 0 }

local n = { struct.unpack('>' .. string.rep('d', #ARGV[1] / 8), ARGV[1]) }
local costs = { struct.unpack('>' .. string.rep('d', #ARGV[2] / 8), ARGV[2]) }
local now, period_start, period_end, fresh = n[1], n[2], n[3], n[7] == 1
local lease_s, rates, quotas = n[9], n[10], n[11]
local rate_at, cap_at = 11, 11 + 2 * rates
local first_counter = #KEYS - quotas + 1
local heads = 2 + rates
local requests = #costs - 1 -- unpack() says last where it ended

if now < 0 then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
if fresh or now < period_start or now >= period_end then return NOBODY end

local stored = redis.call('MGET', unpack(KEYS, 1, first_counter - 1))
for i = 1, 2 do
    local known = tonumber(stored[i])
    if not known or known > n[4 + i] then return NOBODY end
end

-- What is owed and leased, and the rows for which there is room everywhere.
local room = math.huge
local standing, owed, since = { now }, {}, {}
for i = 1, rates do
    local rows, at = 0, 0
    local per_window, window_s = n[rate_at + 2 * i - 1], n[rate_at + 2 * i]
    if stored[2 + i] then rows, at = struct.unpack('>dd', stored[2 + i]) end
    owed[i] = math.max(0, rows - math.max(0, now - at) * per_window / window_s)
    since[i] = math.max(at, now)
    room = math.min(room, per_window + TOLERANCE - owed[i])
    standing[#standing + 1] = owed[i]
end
local counted = {}
for i = 1, quotas do
    local state = redis.call('HMGET', KEYS[first_counter + i - 1], 'u', 'r', 'x')
    if not state[1] then return NOBODY end
    local used, reserved, first_expiry = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
    if reserved > 0 and now >= first_expiry then return NOBODY end
    local cap = n[cap_at + i]
    if cap >= 0 then room = math.min(room, cap - used - reserved) end
    counted[i] = { reserved, first_expiry }
    standing[#standing + 1] = used
    standing[#standing + 1] = reserved
end

-- In whole seconds, which are shorter, and spelt once for all leases.
local expiry = math.ceil(now + lease_s)
local expiry_text = string.format('%d', expiry)
local admitted, spent, leased = 0, 0, {}
for i = 1, requests do
    if spent + costs[i] > room then break end
    admitted, spent = i, spent + costs[i]
    leased[2 * i - 1], leased[2 * i] = ARGV[2 + i], expiry_text
end
if admitted == 0 then return NOBODY end

for i = 1, rates do
    local rows = owed[i] + spent
    local whole_s = math.ceil(rows * n[rate_at + 2 * i] / n[rate_at + 2 * i - 1]) + 1
    redis.call('SET', KEYS[2 + i], struct.pack('>dd', rows, since[i]), 'EX', whole_s)
end
for i = 1, quotas do
    local counter, reserved, first_expiry = KEYS[first_counter + i - 1], counted[i][1], counted[i][2]
    if reserved == 0 then first_expiry = expiry end
    redis.call('HSET', counter, 'r', reserved + spent, 'x', math.min(first_expiry, expiry), unpack(leased))
end

local reply = { admitted, struct.pack('>' .. string.rep('d', #standing), unpack(standing)) }
for i = heads + 1, first_counter - 1 do
    reply[2 + i - heads] = stored[i]
end
return reply
