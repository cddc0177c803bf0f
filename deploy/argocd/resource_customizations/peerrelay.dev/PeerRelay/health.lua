-- Health of a PeerRelay according to its conditions (docs/conditions.md). It is the same as that of
-- kstatus, except that a paused or disabled PeerRelay is Suspended.
local hs = { status = "Progressing", message = "waiting for the operator" }

local status = obj.status
if status == nil or status.conditions == nil then
  return hs
end
-- Conditions of an earlier generation do not apply to the current one.
if status.observedGeneration ~= obj.metadata.generation then
  return hs
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready = conditions["Ready"]
if ready == nil then
  return hs
end
hs.message = ready.reason .. ": " .. ready.message

local function is_true(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

if is_true("Stalled") then
  hs.status = "Degraded"
elseif ready.reason == "Paused" then
  hs.status = "Suspended"
elseif ready.status == "True" and ready.reason == "Disabled" then
  hs.status = "Suspended"
elseif ready.status == "True" then
  hs.status = "Healthy"
  -- Problems that do not prevent relays from being ready.
  local others = { "TailnetConnected", "GrantsInForce", "EndpointsPublished", "EndpointsVerified", "WithinQuota" }
  for _, type in ipairs(others) do
    local condition = conditions[type]
    if condition ~= nil and condition.status == "False" then
      hs.message = hs.message .. "; " .. condition.reason .. ": " .. condition.message
    end
  end
end
return hs
