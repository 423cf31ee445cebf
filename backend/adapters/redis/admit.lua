-- Decides one request at once: epochs, quota counters, idempotency, rate limits, quotas, cached rows. Either
-- everything is spent or nothing is. Needs Redis 5 or newer (effects replication), no functions, no modules.
--
-- KEYS  1 the tenant's epoch   2 the credential's epoch
--       then one level for each rate rule
--       then a counter for each quota rule
--       then the idempotency slot, if the request claims one
--       then the cached rows
-- ARGV  1 numbers, as big-endian doubles packed into one string, which parses faster than thirty arguments:
--           now (negative: ask the server)   start and end of the period the counters are named for
--           what to do: 0 only look, 1 refuse or spend, 2 let pass what would be refused (shadow)
--           tenant's version, credential's version, whether they are fresh
--           seconds to keep an epoch         seconds to a lease's expiry
--           rate rules  quota rules          then rows and seconds of each rate rule
--           then the cap of each quota rule, negative where nothing is ever refused
--       2 the lease's id   3 the request's fingerprint, empty when it claims no slot   4 rows asked for
--
-- Answers {verdict, standing, …}. The standing is big-endian doubles: now, then rows and instant of each rate level,
-- then used and reserved of each quota. Verdicts are the words of domain/admission.py, and four more:
--   over-rate, over-quota  as admitted, in shadow: what would have been refused. It spends no rate, but its rows are
--                 leased, because they are served.
--   missing       {verdict, rule, token, …}: these counters have not begun. The token shows, when the ledger has been
--                 read, that nothing was flushed since; see begin.lua.
--   other-period  {verdict, now}: by this server's clock it is another month.
--
-- A level is two doubles, rows owed and since when. A counter is a hash: u used, r reserved, x no lease expires
-- before, p everything that expired until then has been given back, c the token while it has not begun, d how often it
-- was repaired; and each lease, "rows:lease id", with its expiry. One that has expired stays for LATE_S, so that a late
-- settlement finds it. A slot is a hash: f fingerprint, l lease id, x expiry, and once answered s status, h headers,
-- b body.
--
-- Redis expires keys by its own clock, only to be rid of them: what decides is always compared with now.

local TOLERANCE = 1e-6 -- ROW_TOLERANCE in domain/limits.py
local LATE_S = 3600
local TOKEN_S = 60
local CHUNK = 1000 -- Lua's stack holds some 8000 values

local n = { struct.unpack('>' .. string.rep('d', #ARGV[1] / 8), ARGV[1]) }
local now, period_start, period_end, spends, enforces = n[1], n[2], n[3], n[4] > 0, n[4] < 2
local fresh, epoch_s, lease_s, rates, quotas = n[7] == 1, n[8], n[9], n[10], n[11]
local rate_at, cap_at = 11, 11 + 2 * rates
local lease_id, fingerprint, cost = ARGV[2], ARGV[3], tonumber(ARGV[4])
local first_counter = 3 + rates
local slot_at = first_counter + quotas

if now < 0 then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
if now < period_start or now >= period_end then
    return { 'other-period', struct.pack('>d', now) }
end

-- Epochs. Fresh ones are announced, never backwards; what is unknown or newer makes the request stale.
local heads = redis.call('MGET', unpack(KEYS, 1, 2 + rates))
if spends then
    local stale = false
    for i = 1, 2 do
        local given, known = n[4 + i], tonumber(heads[i])
        if fresh and (not known or known < given) then
            redis.call('SET', KEYS[i], given, 'EX', epoch_s)
            known = given
        end
        stale = stale or not known or known > given
    end
    if stale then return { 'stale' } end
end

-- Rate limits: GCRA as in domain/limits.py, the same operations in the same order.
local standing = { struct.pack('>d', now) }
local after, within_rates = {}, true
for i = 1, rates do
    local rows, at = 0, 0
    local per_window, window_s = n[rate_at + 2 * i - 1], n[rate_at + 2 * i]
    if heads[2 + i] then rows, at = struct.unpack('>dd', heads[2 + i]) end
    local owed = math.max(0, rows - math.max(0, now - at) * per_window / window_s) + cost
    within_rates = within_rates and owed - per_window <= TOLERANCE
    standing[1 + i] = struct.pack('>dd', rows, at)
    after[i] = { struct.pack('>dd', owed, math.max(at, now)), math.ceil(owed * window_s / per_window) + 1 }
end

-- Gives back what expired leases held. Runs when the first may have expired, not at every request.
local function give_back(counter)
    local reserved, first_expiry, gone = 0, 0, {}
    local fields = redis.call('HGETALL', counter)
    for i = 1, #fields, 2 do
        local rows, expiry = string.match(fields[i], '^(%d+):'), tonumber(fields[i + 1])
        if rows and expiry > now then
            reserved = reserved + tonumber(rows)
            if first_expiry == 0 or expiry < first_expiry then first_expiry = expiry end
        elseif rows and expiry <= now - LATE_S then
            gone[#gone + 1] = fields[i]
        end
    end
    redis.call('HSET', counter, 'r', reserved, 'p', now, 'x', first_expiry)
    for first = 1, #gone, CHUNK do
        redis.call('HDEL', counter, unpack(gone, first, math.min(first + CHUNK - 1, #gone)))
    end
    return reserved, first_expiry
end

-- Quotas.
local missing
local within_quotas = true
local counted = {}
for i = 1, quotas do
    local counter = KEYS[first_counter + i - 1]
    local state = redis.call('HMGET', counter, 'u', 'r', 'x')
    if state[1] then
        local used, reserved, first_expiry = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
        if reserved > 0 and now >= first_expiry then
            reserved, first_expiry = give_back(counter)
        end
        local cap = n[cap_at + i]
        within_quotas = within_quotas and (cap < 0 or used + reserved + cost <= cap)
        counted[i] = { counter, reserved, first_expiry }
        standing[1 + rates + i] = struct.pack('>dd', used, reserved)
    else
        redis.call('HSETNX', counter, 'c', lease_id)
        redis.call('EXPIRE', counter, TOKEN_S)
        missing = missing or { 'missing' }
        missing[#missing + 1] = i
        missing[#missing + 1] = redis.call('HGET', counter, 'c')
    end
end
if missing then return missing end
local before = table.concat(standing)
if not spends then return { 'admitted', before } end

-- Idempotency: a running request, an answered one, or a free slot.
local slot = fingerprint ~= '' and KEYS[slot_at]
if slot then
    local held = redis.call('HMGET', slot, 'f', 'x', 's', 'h', 'b')
    if held[1] and tonumber(held[2]) > now then
        if held[1] ~= fingerprint then return { 'idempotency-reused', before } end
        if not held[3] then return { 'idempotency-in-progress', before } end
        return { 'replay', before, held[3], held[4], held[5] }
    end
end

local is_within = within_rates and within_quotas
if enforces and not within_rates then return { 'rate-limited', before } end
if enforces and not within_quotas then return { 'quota-exceeded', before } end

-- Nothing below refuses: everything is spent.
-- In whole seconds, which are shorter.
local expiry = math.ceil(now + lease_s)
if is_within then
    for i = 1, rates do
        redis.call('SET', KEYS[2 + i], after[i][1], 'EX', after[i][2])
        standing[1 + i] = after[i][1]
    end
end
for i = 1, quotas do
    local counter, reserved, first_expiry = unpack(counted[i])
    if reserved == 0 then first_expiry = expiry end
    local lease = string.format('%d:%s', cost, lease_id)
    redis.call('HSET', counter, 'r', reserved + cost, 'x', math.min(first_expiry, expiry), lease, expiry)
    local used = struct.unpack('>dd', standing[1 + rates + i])
    standing[1 + rates + i] = struct.pack('>dd', used, reserved + cost)
end
if slot then
    redis.call('DEL', slot)
    redis.call('HSET', slot, 'f', fingerprint, 'l', lease_id, 'x', expiry)
    redis.call('EXPIRE', slot, math.ceil(lease_s) + LATE_S)
    slot_at = slot_at + 1
end

local verdict = is_within and 'admitted' or within_rates and 'over-quota' or 'over-rate'
local reply = { verdict, table.concat(standing) }
for first = slot_at, #KEYS, CHUNK do
    local last = math.min(first + CHUNK - 1, #KEYS)
    local rows = redis.call('MGET', unpack(KEYS, first, last))
    for i = 1, last - first + 1 do
        reply[#reply + 1] = rows[i]
    end
end
return reply
