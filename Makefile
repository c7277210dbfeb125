# Every target works on a clean clone. `make help` lists them.

MODULES := . migrations/compat bench tidemarktest examples
# The packages whose tests execute our SQL, with all their subpackages.
SQL := ./internal/... ./migrations/... ./eventstore/... ./snapshot/... ./aggregate/... ./projection/...

# Tests mostly wait for leases, timeouts and servers, so more of them than there are cores can run at a time.
PARALLEL ?= -parallel 8

.DEFAULT_GOAL := help
.PHONY: help test test/short test/race test/versions test/sql lint vuln bench bench/growth fuzz soak tidy ci

help: ## list the targets
	@awk -F':.*## ' '/^[a-z\/]+:.*## / {printf "%-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The longest package begins, beside packages that mostly wait: so no core is idle at the end.
FIRST := ./projection ./localpg ./internal/pgpool ./internal/pgtest ./projection/projectiontest ./eventstore

test: ## run all tests
	@go test -timeout 20m $(PARALLEL) $(FIRST) $(patsubst %,./%/...,$(filter-out bench,$(MODULES)))

SLOW := (eventstore|projection|projectiontest|snapshot|localpg|pgtest|pgpool|aggregate|bank|orders)
test/short: ## run the quick half: the fast packages, and the examples of the slow ones
	@go test $$(go list ./... | grep -vE '/$(SLOW)$$')
	@cd examples && go test $$(go list ./... | grep -vE '/$(SLOW)$$')
	@go test -run '^(Example|TestStore$$|TestRefs$$|TestVerdict$$)' ./eventstore ./projection ./snapshot ./aggregate

test/race: ## run all tests under the race detector
	@go test -race -timeout 20m $(PARALLEL) $(FIRST) $(patsubst %,./%/...,$(MODULES))

VERSIONS ?= 14 15 16 17 18
test/versions: ## run all tests on each of the VERSIONS of Postgres, which are downloaded once
	@for v in $(VERSIONS); do echo "=== Postgres $$v"; \
	  TIDEMARK_POSTGRES=download TIDEMARK_POSTGRES_VERSION=$$v $(MAKE) --no-print-directory test || exit 1; done

test/sql: ## run the tests of the packages that hold SQL on each of the VERSIONS of Postgres
	@for v in $(VERSIONS); do echo "=== Postgres $$v"; \
	  TIDEMARK_POSTGRES=download TIDEMARK_POSTGRES_VERSION=$$v go test -timeout 20m $(PARALLEL) $(SQL) || exit 1; done

# The tools are in a module of their own, which keeps their dependencies out of the other modules.
lint/bin/golangci-lint: lint/go.mod
	@cd lint && GOWORK=off go build -o bin/ tool

lint: lint/bin/golangci-lint ## check formatting, and run the linters of .golangci.yml
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted"; exit 1; }
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/lint/bin/golangci-lint run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

vuln: lint/bin/golangci-lint ## look for known vulnerabilities; needs https://vuln.go.dev
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/lint/bin/govulncheck ./...) || exit 1; done

bench: ## compare with plain INSERT, COPY, river and watermill-sql, on a durable Postgres
	cd bench && go run .

bench/growth: ## let the log grow to 20 million events; needs 25 GB of disk; writes bench/growth/RESULTS.md
	cd bench && go run . -only '^(growth|rebuild)$$' -max 20000000 -out growth

FUZZTIME ?= 20s
fuzz: ## fuzz each target for FUZZTIME
	go test ./eventstore -run '^$$' -fuzz FuzzParseStreamID -fuzztime $(FUZZTIME)
	go test ./codec -run '^$$' -fuzz FuzzCodec -fuzztime $(FUZZTIME)
	go test ./internal/plainjson -run '^$$' -fuzz FuzzPlain -fuzztime $(FUZZTIME)
	go test ./eventstore -run '^$$' -fuzz FuzzPayload -fuzztime $(FUZZTIME)
	go test ./examples/bank/berka -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME)

SOAK ?= 5m
soak: ## cause failures for SOAK: Postgres killed, connections cut, processes killed, standbys promoted
	go test ./eventstore -run '^Test(Chaos|Silence)$$' -chaos $(SOAK) -timeout 0 -count 1 -v
	go test ./projection -run '^Test(Killed|Restarted)' -soak $(SOAK) -timeout 0 -count 1 -v
	go test ./projection -run '^TestFailover$$' -failover $(SOAK) -timeout 0 -count 1 -v

tidy: ## tidy the modules
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done
	go work sync

ci: ## run all checks of the build server
	CI=true bash .ci/run
