# npp in a container.
#
#	docker build -t npp --build-arg VERSION="$(git describe --tags --always)" .
#	docker run -d --name npp -p 4001:4001 -p 4001:4001/udp -v npp:/data npp
#	docker exec npp ipfs npp status
#
# Ports: 4001 (TCP and UDP) is for other peers, and the only one to publish. 5001 is
# the RPC API, which controls the daemon without a password, and 8080 the gateway.
# Both listen on the container's loopback, where `docker exec` reaches them.
#
# Volume: /data is the repo, with the OrbitDB identity and the databases. Without a
# volume of its own, each container is another peer. It belongs to user 10001; a
# directory of the host that is mounted there has to as well.
#
# Hole punching: a container is behind two NATs, Docker's and the router's. Docker's
# changes the port of outgoing UDP, so a hole may be punched at another port than the
# one that peers learn. Where peers reach the daemon over relays alone (`ipfs npp
# connect` says so), publish the same port number outside as inside, as above, or run
# with --network host, which has the NAT of the router alone, and finds peers of the
# local network (mDNS). To announce a known address:
#
#	docker exec npp ipfs config --json Addresses.AppendAnnounce '["/ip4/203.0.113.7/tcp/4001"]'
#	docker restart npp

FROM golang:1.26-bookworm AS build
WORKDIR /npp
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=(devel)
RUN CGO_ENABLED=0 make ipfs VERSION="$VERSION" && install -d /empty

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /npp/ipfs /usr/local/bin/ipfs
COPY --from=build /npp/LICENSE /npp/LICENSE-APACHE /npp/LICENSE-MIT /usr/share/doc/npp/
COPY --from=build --chown=10001:10001 /empty /data
COPY --from=build --chown=10001:10001 /empty /tmp
USER 10001:10001
ENV HOME=/data IPFS_PATH=/data
VOLUME /data
EXPOSE 4001/tcp 4001/udp
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["ipfs", "npp", "status"]
STOPSIGNAL SIGINT
ENTRYPOINT ["ipfs"]
CMD ["daemon", "--init", "--migrate"]
