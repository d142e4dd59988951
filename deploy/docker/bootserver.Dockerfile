# The boot server with what it hands out: the agent of its own architecture, and Debian's iPXE.
#   docker build --file deploy/docker/bootserver.Dockerfile --tag magnetite/bootserver:0.1.0 .
# A site of two architectures needs the other agent too; it comes from an image made with agent.Dockerfile:
#   docker build --build-arg OTHER_AGENT=magnetite/agent:0.1.0-arm64 ...
# Build with BuildKit: the older builder loses the file capability on its way from stage to stage.
ARG OTHER_AGENT=no-other-agent

# Debian 13: the iPXE of Debian 12 is of 2019 and has no build for 64-bit Arm.
FROM rust:1.95-trixie AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox-static ca-certificates ipxe libcap2-bin musl-tools
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    machine="$(uname -m)" && target="$machine-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --release --locked --target "$target" --package magnetite-bootserver --package magnetite-agent \
    && install -D "target/$target/release/magnetite-bootserver" /out/usr/bin/magnetite-bootserver \
    && install -D "target/$target/release/magnetite-agent" "/out/usr/lib/magnetite/agent/magnetite-agent-$machine"
RUN install -D --mode=0644 --target-directory=/out/usr/lib/ipxe \
        /usr/lib/ipxe/undionly.kpxe /usr/lib/ipxe/ipxe.pxe /usr/lib/ipxe/snponly.efi /usr/lib/ipxe/ipxe.efi /usr/lib/ipxe/ipxe-arm64.efi \
    && install -D --mode=0644 --target-directory=/out/usr/share/doc/ipxe /usr/share/doc/ipxe/copyright \
    && install -D --mode=0644 --target-directory=/out/usr/share/doc/busybox /usr/share/doc/busybox-static/copyright \
    # By these it trusts the servers that Profiles name by https.
    && install -D --mode=0644 --target-directory=/out/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt \
    # Under this name busybox does only this: the chart's init container gives the data folder to the boot server.
    && install -D "$(command -v busybox)" /out/usr/lib/magnetite/chown \
    # Kubernetes cannot give a capability to a user other than root; the file can, where the Pod allows it.
    && setcap cap_net_bind_service=+ep /out/usr/bin/magnetite-bootserver \
    # Once more, for router advertisements. Not one file for both: the kernel starts none that is marked for more than
    # the Pod may have.
    && install /out/usr/bin/magnetite-bootserver /out/usr/lib/magnetite/bootserver-net-raw \
    && setcap cap_net_bind_service,cap_net_raw=+ep /out/usr/lib/magnetite/bootserver-net-raw
RUN mkdir -p /usr/lib/magnetite/agent

FROM build AS no-other-agent

FROM ${OTHER_AGENT} AS other-agent

FROM scratch
COPY --from=other-agent /usr/lib/magnetite/agent/ /usr/lib/magnetite/agent/
COPY --from=build /out/ /
USER 10067:10067
ENTRYPOINT ["/usr/bin/magnetite-bootserver"]
