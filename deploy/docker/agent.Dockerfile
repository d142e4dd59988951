# The agent of one architecture, for boot servers of another: they hand it out, and never run it.
#   docker build --platform linux/arm64 --file deploy/docker/agent.Dockerfile --tag magnetite/agent:0.1.0-arm64 .
FROM rust:1.95-trixie AS build
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    machine="$(uname -m)" && target="$machine-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --release --locked --target "$target" --package magnetite-agent \
    && install -D "target/$target/release/magnetite-agent" "/out/usr/lib/magnetite/agent/magnetite-agent-$machine"

FROM scratch
COPY --from=build /out/ /
