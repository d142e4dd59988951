# The controller with ipmitool, for sites whose BMCs speak nothing but IPMI. The other image is the smaller one to watch over.
#   docker build --file deploy/docker/controller-ipmi.Dockerfile --tag magnetite/controller:0.1.0-ipmi .
FROM rust:1.95-trixie AS build
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --release --locked --target "$target" --package magnetite-controller \
    && install -D "target/$target/release/magnetite-controller" /out/usr/bin/magnetite-controller

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates ipmitool \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
USER 10067:10067
ENTRYPOINT ["/usr/bin/magnetite-controller"]
