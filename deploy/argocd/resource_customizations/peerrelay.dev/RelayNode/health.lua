-- Health of a relay according to its report (docs/conditions.md, "Reasons that relays report").
local hs = { status = "Progressing", message = "waiting for the relay's report" }

local status = obj.status
if status == nil or status.ready == nil then
  return hs
end
if status.ready then
  hs.status = "Healthy"
  hs.message = "the relay is ready"
  if status.withdrawal ~= nil then
    hs.status = "Suspended"
    hs.message = "the relay gives out no more sessions: it is going to be removed, or its node is cordoned"
  end
  return hs
end

-- Reasons that need a change by a user. For all other reasons, the relay retries.
local stalls = {
  AuthKeyMissing = true,
  AuthKeyInvalid = true,
  RegistrationNeedsApproval = true,
  ControlCertificateInvalid = true,
  HostPortConflict = true,
  RelayDisabledByPolicy = true,
  KeyExpired = true,
  TagMissing = true,
  TailnetLockUnsigned = true,
  KernelPathUnavailable = true,
}
local reason = status.reason
if reason == nil then
  hs.message = "the relay is starting"
  return hs
end
if stalls[reason] then
  hs.status = "Degraded"
end
hs.message = reason
if status.message ~= nil then
  hs.message = reason .. ": " .. status.message
end
return hs
