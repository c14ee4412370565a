# All that a contributor runs. `make` alone lists the targets.

# The same flags everywhere, so that one build cache serves all targets.
# No VCS stamp: a build must not depend on git or on who owns the checkout.
export GOFLAGS := $(GOFLAGS) -trimpath -buildvcs=false

PREFIX ?= /usr/local
GO     ?= go
export GO

# What the end-to-end tests run, see test/harness.
BINARIES := NPP_IPFS=$(CURDIR)/ipfs NPP_STOCK=$(CURDIR)/bin/stock

# How long make soak goes on, and the first seed of its histories.
MINUTES ?= 5
SEED    ?= 1001

.PHONY: help ipfs stock run demo test race interop soak bench preload install clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

ipfs: ## build ./ipfs: kubo with npp
	$(GO) build -o ipfs ./cmd/ipfs

stock:
	$(GO) build -o bin/stock ./test/stock

run: ipfs ## build, then run the daemon on $IPFS_PATH (made where there is none)
	./ipfs daemon --init

demo: ipfs ## two throw-away daemons on loopback that talk to each other
	./scripts/demo

# Each time limit fits a machine that is five times slower than CONTRIBUTING.md says.

test: ipfs stock ## all checks, and all tests that need nothing but Go
	@out=$$(gofmt -l . 2>&1) && test -z "$$out" || { echo "gofmt:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	@$(GO) run ./cmd/preload preload_list | cmp -s - cmd/ipfs/preload.go || \
		{ echo "cmd/ipfs/preload.go is stale: run make preload"; exit 1; }
	$(BINARIES) $(GO) run ./test/report -vet=off -timeout 30m ./test/cli ./orbit/internal/sim ./...

# Without test/ and bench/: their tests run other processes, which it does not see.
race: ## the tests of the packages with the race detector (needs a C compiler)
	@test "$$($(GO) env CGO_ENABLED)" = 1 || { echo "make race needs a C compiler, which is not installed"; exit 1; }
	$(GO) run ./test/report -race -vet=off -timeout 60m $$($(GO) list ./... | grep -v -e /bench -e /test/)

interop: ipfs ## talk to JavaScript peers (needs npm)
	@command -v npm >/dev/null || { echo "make interop needs npm (Node.js), which is not installed"; exit 1; }
	$(BINARIES) ./test/interop/run

soak: ipfs ## random histories, and kills, for MINUTES=5; simulated from SEED=1001 on
	$(BINARIES) NPP_SOAK=$(MINUTES)m NPP_SIM_SEED=$(SEED) NPP_SIM_SEEDS=1 NPP_ACCESS_SEEDS=$$((2000 * $(MINUTES))) \
		$(GO) test -v -count=1 -vet=off -p 3 -parallel 8 -timeout $$((4 * $(MINUTES) + 30))m \
		-run 'TestHistories|SurvivesKill|SurviveKills|TestReplicasWithTheSame|TestReplicasAgreeAfter' \
		./orbit/internal/sim ./test/cli ./orbit ./orbit/internal/oplog

bench: ipfs ## measure against stock kubo and others
	$(GO) run ./bench

preload: ## generate cmd/ipfs/preload.go from preload_list
	$(GO) run ./cmd/preload -o cmd/ipfs/preload.go preload_list

install: ipfs ## install ipfs into $PREFIX/bin (PREFIX=/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 ipfs $(DESTDIR)$(PREFIX)/bin/ipfs

clean: ## remove what the other targets built
	rm -rf ipfs bin
