# The controller, and nothing else: a static binary has no use for a system around it.
#   docker build --file deploy/docker/controller.Dockerfile --tag magnetite/controller:0.1.0 .
FROM rust:1.95-trixie AS build
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --release --locked --target "$target" --package magnetite-controller \
    && install -D "target/$target/release/magnetite-controller" /out/usr/bin/magnetite-controller

FROM scratch
COPY --from=build /out/ /
USER 10067:10067
ENTRYPOINT ["/usr/bin/magnetite-controller"]
