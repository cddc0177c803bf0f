// The test tailnet of the rig: stock Tailscale programs, and our small programs on their packages.
module peerrelay.dev/rig/tailnet

go 1.26.0

require tailscale.com v1.102.5

tool (
	tailscale.com/cmd/tailscale
	tailscale.com/cmd/tailscaled
)
