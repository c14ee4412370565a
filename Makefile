# All that a contributor runs. `make` alone lists the targets.

# The same flags everywhere, so that one build cache serves all targets.
# No VCS stamp: a build must not depend on git or on who owns the checkout.
export GOFLAGS := $(GOFLAGS) -trimpath -buildvcs=false

# What `ipfs npp version` shows. Without git, it is "(devel)".
VERSION := $(shell git describe --tags --always --dirty --match 'v*' 2>/dev/null)
LDFLAGS := -X github.com/newpieceplease/npp/internal/version.linked=$(VERSION)

PREFIX ?= /usr/local
GO     ?= go
export GO

# What the end-to-end tests run, see test/harness.
BINARIES := NPP_IPFS=$(CURDIR)/ipfs NPP_STOCK=$(CURDIR)/bin/stock

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The version before, which make compat builds from the history of git.
BEFORE ?= c04b64a

# How long make soak goes on, and the first seed of its histories.
MINUTES ?= 5
SEED    ?= 1001

.PHONY: help ipfs stock run demo test race interop compat soak bench lint preload install dist deb debtest clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

ipfs: ## build ./ipfs: kubo with npp
	$(GO) build -ldflags '$(LDFLAGS)' -o ipfs ./cmd/ipfs

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
# Without the simulator: it takes too long, and orbit/replicate has tests of its own.
race: ## the tests of the packages with the race detector (needs a C compiler)
	@test "$$($(GO) env CGO_ENABLED)" = 1 || { echo "make race needs a C compiler, which is not installed"; exit 1; }
	$(GO) run ./test/report -race -vet=off -timeout 60m $$($(GO) list ./... | grep -v -e /bench -e /test/ -e /sim)

interop: ipfs ## talk to JavaScript peers (needs npm)
	@command -v npm >/dev/null || { echo "make interop needs npm (Node.js), which is not installed"; exit 1; }
	$(BINARIES) ./test/interop/run

compat: ipfs bin/before-$(BEFORE) ## a repo and peers of this version and of the one before (needs git and its history)
	NPP_BEFORE=$(CURDIR)/bin/before-$(BEFORE) NPP_IPFS=$(CURDIR)/ipfs $(GO) test -count=1 -vet=off -timeout 20m ./test/compat

bin/before-%:
	rm -rf bin/before.src && mkdir -p bin/before.src
	git archive $* | tar -x -C bin/before.src
	cd bin/before.src && $(GO) build -o ../before-$* ./cmd/ipfs
	rm -rf bin/before.src

soak: ipfs ## random histories, and kills, for MINUTES=5; simulated from SEED=1001 on
	$(BINARIES) NPP_SOAK=$(MINUTES)m NPP_SIM_SEED=$(SEED) NPP_SIM_SEEDS=1 NPP_ACCESS_SEEDS=$$((2000 * $(MINUTES))) \
		$(GO) test -v -count=1 -vet=off -p 3 -parallel 8 -timeout $$((4 * $(MINUTES) + 30))m \
		-run 'TestHistories|SurvivesKill|SurviveKills|TestReplicasWithTheSame|TestReplicasAgreeAfter' \
		./orbit/internal/sim ./test/cli ./orbit ./orbit/internal/oplog

bench: ipfs ## measure against stock kubo and others
	$(GO) run ./bench

lint: ## look for mistakes with staticcheck, as staticcheck.conf configures it
	$(GO) run $(STATICCHECK) ./...

preload: ## generate cmd/ipfs/preload.go from preload_list
	$(GO) run ./cmd/preload -o cmd/ipfs/preload.go preload_list

install: ipfs ## install ipfs and its completions below $PREFIX (PREFIX=/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 ipfs $(DESTDIR)$(PREFIX)/bin/ipfs
	./scripts/completions ./ipfs bin/completions
	for file in ipfs.bash:bash-completion/completions/ipfs _ipfs:zsh/site-functions/_ipfs ipfs.fish:fish/vendor_completions.d/ipfs.fish; do \
		to=$(DESTDIR)$(PREFIX)/share/$${file#*:}; \
		install -d "$${to%/*}" && install -m 644 "bin/completions/$${file%:*}" "$$to" || exit; \
	done

dist: ipfs ## build dist/npp_….tar.gz for Linux, macOS and Windows, and SHA256SUMS
	scripts/completions ./ipfs bin/completions
	nice -n 5 $(GO) run ./cmd/dist -version '$(VERSION)' -time "$$(git log -1 --format=%ct)" -completions bin/completions -o dist

deb: ipfs ## build dist/npp_….deb for this machine, by nfpm
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w $(LDFLAGS)' -o bin/static/ipfs ./cmd/ipfs
	VERSION='$(VERSION)' scripts/deb bin/static/ipfs $$($(GO) env GOARCH) dist

debtest: ipfs ## package ./ipfs for Debian, install and run it, and purge it (needs root on Debian)
	VERSION='$(VERSION)' test/deb/run

clean: ## remove what the other targets built
	rm -rf ipfs bin dist
