# One image for operator and relays.
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends clang cmake
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package peerrelay

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/peerrelay /usr/bin/peerrelay
# Relays and operator need no privilege; what a relay's init container needs comes from its pod.
USER 65532:65532
ENTRYPOINT ["/usr/bin/peerrelay"]
