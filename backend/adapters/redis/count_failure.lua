-- Counts one more failed login, as in domain/login_delays.py: LoginDelay.after_failure.
--
-- KEYS  the levels to raise
-- ARGV  1 now, then for each key: seconds after which a failure is forgiven, failures beyond which counting stops,
--       seconds after which nothing is left
-- A level is two big-endian doubles: failures, and the instant of the last one.

local now = tonumber(ARGV[1])
for i = 1, #KEYS do
    local forgiven_each_s, most, memory_s = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), ARGV[3 * i + 1]
    local failures, at = 0, 0
    local stored = redis.call('GET', KEYS[i])
    if stored then failures, at = struct.unpack('>dd', stored) end
    failures = math.min(most, math.max(0, failures - math.max(0, now - at) / forgiven_each_s) + 1)
    redis.call('SET', KEYS[i], struct.pack('>dd', failures, now), 'EX', memory_s)
end
return 1
