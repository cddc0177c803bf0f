# syntax=docker/dockerfile:1
# One image for operator and relays, with the same content as that of `cargo dev image`; a test of
# A test of tests/rig compares this file with it. `docs/install.md` has the commands.

# Digest of the index for all architectures, so that arm64 builds natively from the same line.
ARG RUST=docker.io/library/rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1

FROM ${RUST} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# --build-arg COMMIT=$(git rev-parse --short=12 HEAD): .git is not in the build context.
ARG COMMIT=
ENV PEERRELAY_COMMIT=${COMMIT}
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo --config 'build.rustflags=["--remap-path-prefix=/usr/local/cargo=/cargo"]' \
      rustc --locked --release --package peerrelay --bin peerrelay \
      -- -C target-feature=+crt-static \
 && install -D -m 0755 target/release/peerrelay /image/usr/bin/peerrelay

FROM scratch
COPY --from=build /image/usr/bin/peerrelay /usr/bin/peerrelay
ARG VERSION=0.1.0
ARG COMMIT=
ARG CREATED=
LABEL org.opencontainers.image.title="Peer Relay Operator" \
      org.opencontainers.image.description="Kubernetes operator and embedded UDP relay for Tailscale peer relays" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://peerrelay.dev" \
      org.opencontainers.image.documentation="https://peerrelay.dev" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/usr/bin
WORKDIR /
# Relays and operator need no privilege; what a relay's init container needs comes from its pod.
USER 65532:65532
ENTRYPOINT ["/usr/bin/peerrelay"]
