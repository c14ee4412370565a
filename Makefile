# All that a contributor runs. `make` alone lists the targets.

# The same flags everywhere, so that one build cache serves all targets.
# No VCS stamp: a build must not depend on git or on who owns the checkout.
export GOFLAGS := $(GOFLAGS) -trimpath -buildvcs=false

PREFIX ?= /usr/local
GO     ?= go

# The race detector needs cgo, which go itself turns off where there is no C
# compiler.
ifeq ($(shell $(GO) env CGO_ENABLED),1)
RACE := -race
endif

.PHONY: help ipfs run demo test interop bench preload install clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

ipfs: ## build ./ipfs: kubo with npp
	$(GO) build -o ipfs ./cmd/ipfs

run: ipfs ## build, then run the daemon on $IPFS_PATH (made where there is none)
	./ipfs daemon --init

demo: ipfs ## two throw-away daemons on loopback that talk to each other
	./scripts/demo

test: ipfs ## all checks and tests: format, vet, preload_list, libraries, end to end
	@out=$$(gofmt -l . 2>&1) && test -z "$$out" || { echo "gofmt:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	@$(GO) run ./cmd/preload preload_list | cmp -s - cmd/ipfs/preload.go || \
		{ echo "cmd/ipfs/preload.go is stale: run make preload"; exit 1; }
	@$(if $(RACE),,echo "no C compiler found: testing without the race detector")
	$(GO) test $(RACE) $$($(GO) list ./... | grep -v /test/)
	$(GO) build -o bin/stock ./test/stock
	NPP_IPFS=$(CURDIR)/ipfs NPP_STOCK=$(CURDIR)/bin/stock $(GO) test ./test/...

interop: ipfs ## talk to JavaScript peers (needs npm)
	@command -v npm >/dev/null || { echo "make interop needs npm (Node.js), which is not installed"; exit 1; }
	NPP_IPFS=$(CURDIR)/ipfs ./test/interop/run

bench: ipfs ## measure against stock kubo and others
	$(GO) run ./bench

preload: ## generate cmd/ipfs/preload.go from preload_list
	$(GO) run ./cmd/preload -o cmd/ipfs/preload.go preload_list

install: ipfs ## install ipfs into $PREFIX/bin (PREFIX=/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 ipfs $(DESTDIR)$(PREFIX)/bin/ipfs

clean: ## remove what the other targets built
	rm -rf ipfs bin
