-- Takes usage events that the database cannot take now, as many as there is room for, in order. Nothing is ever
-- trimmed: what does not fit is refused before it is promised to anybody.
--
-- KEYS  1 the stream
-- ARGV  1 most entries it may hold   then the events
--
-- Answers {how many were taken}.

local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local taken = math.max(0, math.min(room, #ARGV - 1))
for i = 1, taken do
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[1 + i])
end
return { taken }
