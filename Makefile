# Dayfly. The two commands: make run, make test.
#
# STATE   state directory of make run, kernel and bench (default: the CLI's own)
# CACHE   downloads and the record of what was set up (default /var/cache/dayfly)
# N       samples of make bench           FUZZTIME  time for each fuzz target
# ONLY    parts of make bench, such as restore,claim (default: all)

STATE ?=
CACHE ?= /var/cache/dayfly
N ?= 20
ONLY ?=
FUZZTIME ?= 20s

TEST_STATE := $(CURDIR)/build/test-state
GUEST := cmd/dayfly/guestbin/dayfly-guest
# Packages without machines, which the race detector can run in little time.
RACE := ./undo ./keyring ./api/... ./client/... ./node/... ./guest/wire ./vmm/fake ./snapshot ./store ./template

MAKEFLAGS += --no-print-directory
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export DAYFLY_CACHE := $(CACHE)

# A Go that is older than go.mod asks for fetches the right one, which some
# distributions turn off. A newer one fetches nothing.
ifeq ($(filter-out local,$(GOTOOLCHAIN)),)
export GOTOOLCHAIN := auto
endif

# git refuses a work tree that another user owns, which root's often is.
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := $(CURDIR)

# A release is the tag; anything else is the next release and a commit.
VERSION = $(shell git describe --tags --exact-match --match 'v*' 2>/dev/null || \
	{ sed -n 's/^var Version = "\(.*\)"$$/\1/p' dayfly.go && \
	  git rev-parse --short=12 HEAD 2>/dev/null | sed 's/^/+/'; } | tr -d '\n')
GOBUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/dayfly/dayfly.Version=$(VERSION)"
STATE_FLAG = $(if $(STATE),--state $(STATE))

# Pinned in tools/go.mod and built once for each content of it.
TOOLS = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dayfly/tools/$(shell cat tools/go.mod tools/go.sum | cksum | tr ' ' -)

.DEFAULT_GOAL := help
.PHONY: help run build check test bench fuzz kernel clean gen \
	setup-run setup-test setup-kernel prepare prepare-test lint

help: ## say what can be made
	@echo 'usage: make TARGET'
	@sed -n 's/^\([a-z]*\):[^#]*## /  \1#/p' Makefile | awk -F'#' '{ printf "%-10s %s\n", $$1, $$2 }'

run: setup-run build prepare ## install what is missing, boot a VM and run a command in it
	bin/dayfly run $(STATE_FLAG) --timings base -- sh -c 'uname -a && python3 -c "print(\"hello from a machine of its own\")"'

build: ## build bin/dayfly, the guest's part inside
	@$(GOBUILD) -o $(GUEST) ./cmd/dayfly-guest
	@$(GOBUILD) -o bin/dayfly ./cmd/dayfly

# The kernel and the image that make run starts; only what is not there.
prepare:
	@bin/dayfly kernel ls $(STATE_FLAG) --json | grep -q '"id"' || \
		bin/dayfly kernel import $(STATE_FLAG) "$$(ls -t $(CACHE)/linux-image-*-cloud-*.deb | head -n 1)"
	@bin/dayfly image inspect $(STATE_FLAG) base >/dev/null 2>&1 || \
		bin/dayfly image build $(STATE_FLAG) base

# Both kernels: the tuned one takes minutes to compile, so it is kept beside the
# downloads and built again only when its source, configuration or compiler change.
prepare-test: TUNED := $(CACHE)/tuned
prepare-test: setup-kernel
	@mkdir -p $(TEST_STATE)/kernels/kernels
	@$(MAKE) prepare STATE=$(TEST_STATE)
	@bin/dayfly kernel build --state $(TUNED)
	@cp -an $(TUNED)/kernels/kernels/. $(TEST_STATE)/kernels/kernels/

check: setup-run lint ## formatting, vet, linters, import arrows, generated files
	@echo 'check: modules are tidy'
	@go mod tidy -diff
	@echo 'check: import arrows'
	@go test -count=1 ./test/deps
	@echo 'check: the exporter of traces, which only builds with the tag otlp have'
	@go test -count=1 -tags otlp -run 'Span|Collector' ./cmd/dayfly
	@echo 'check: generated files are up to date'
	@$(MAKE) gen
	@git diff --exit-code --stat -- '*gen.go' || \
		{ echo 'check: commit the files above: make gen has changed them' >&2; exit 1; }
	@echo 'check: all is well'

lint: $(TOOLS)/golangci-lint
	@echo 'check: gofmt'
	@out=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
		[ -z "$$out" ] || { printf 'run gofmt -w on:\n%s\n' "$$out" >&2; exit 1; }
	@echo 'check: go vet'
	@go vet ./...
	@go vet -tags otlp ./...
	@echo 'check: golangci-lint'
	@$< run ./...

$(TOOLS)/golangci-lint:
	@echo 'building golangci-lint (once; a minute or two)'
	@mkdir -p $(@D)
	@cd tools && CGO_ENABLED=0 go build -o $(@D)/ tool

test: setup-test build prepare-test ## everything, with real VMs; lists what was skipped and why
	@if bin/dayfly doctor --state $(TEST_STATE) --json | tr -d ' \n' | grep -qi '"name":"kvm","status":"good"'; then \
		export DAYFLY_TEST_KVM=proved; fi; \
	DAYFLY_TEST_STATE=$(TEST_STATE) go run ./test/report $(if $(CI),-strict) -- sh -c \
		'go test -json -count=1 -timeout 60m ./...; status=$$?; echo; echo "again, for data races:"; \
		 CGO_ENABLED=1 go test -race -json -short -timeout 20m $(RACE) && exit $$status'

bench: setup-run build prepare ## measure starts, pauses, forks and memory; checks bench/BUDGETS.md
	go run ./bench -dayfly bin/dayfly -state $(or $(STATE),/var/lib/dayfly) -n $(N) $(if $(ONLY),-only $(ONLY))

fuzz: ## run every fuzz target for FUZZTIME
	@go list -f '{{.Dir}}' ./... | while read -r dir; do \
		for target in $$(grep -hso '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6-); do \
			echo "fuzz: $${dir#$(CURDIR)/} $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$dir" || exit 1; \
		done; \
	done

kernel: setup-kernel build ## compile the tuned guest kernel, preferred from then on
	bin/dayfly kernel build $(STATE_FLAG)

gen: ## make the generated files anew
	@go generate ./...

clean: ## remove what was built; states and caches stay
	rm -rf bin build $(GUEST)

setup-run setup-test setup-kernel: setup-%:
	@packaging/setup.sh $*
