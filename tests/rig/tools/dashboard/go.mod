// What Grafana's own types say of a dashboard.
module peerrelay.dev/rig/dashboard

go 1.26.0

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
