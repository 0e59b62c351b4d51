#!/usr/bin/env bash
# Sets up what is missing on a bare Debian machine and runs every check and test.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }

# command or file, Debian package, and the path in the repository that needs it.
needs='
cc     gcc    Cargo.toml
/usr/include/stdlib.h libc6-dev Cargo.toml
/etc/ssl/certs/ca-certificates.crt ca-certificates Cargo.toml
curl   curl   tests/process.rs
pg_ctlcluster postgresql tests/servers/postgres.rs
rabbitmqctl rabbitmq-server tests/servers/rabbitmq.rs
openssl openssl tests/servers/rabbitmq.rs
/usr/lib/python3/dist-packages/pika/__init__.py python3-pika tests/consumers/billing.py
'

install_missing() {
  local missing=() command package path
  while read -r command package path; do
    [ -n "$command" ] && [ -e "$path" ] || continue
    [ -e "$command" ] || command -v "$command" >/dev/null || missing+=("$package")
  done <<<"$needs"
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
    "${missing[@]}"
}

install_missing
[ -d "${HOME:-/root}/.cargo/bin" ] && PATH="${HOME:-/root}/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null; then
  say 'Rust is missing: install its stable toolchain (cargo), then run this again'
  exit 1
fi
for component in rustfmt clippy; do
  cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

# Most of the tests' time is waiting: for disks, servers, and what is due a moment later.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 3))}"

started=$SECONDS
step() {
  say "$1 (${SECONDS}s)"
  shift
  "$@"
}

# What is killed at random moments, which takes time, and goes on by itself. The broker's are done on
# PostgreSQL too.
at_random=(broker_kills:: torture::)
# What is about PostgreSQL anyway need not be run twice.
once=(broker_nodes:: connections:: schema_migrations:: moves:: newer_schemas:: nodes:: servers_down:: shards:: torture::)

step 'formatting' cargo fmt --all -- --check
step 'clippy' cargo clippy --workspace --all-targets --locked -- -D warnings
step 'documentation' env RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
# Each for the whole workspace: for a part of it dependencies are built anew, with less in them.
step 'tests' cargo test --workspace --lib --bins --tests --locked -- "${at_random[@]/#/--skip=}"
step 'the service on PostgreSQL' env TESTS_ON=postgres \
  cargo test --workspace --test it --locked -- "${once[@]/#/--skip=}"
step 'killed at random' env TORTURE_SECONDS=120 BROKER_EVENTS=10000 BROKER_KILLS=6 \
  cargo test --workspace --test it --locked -- "${at_random[@]}" --nocapture
if command -v cargo-deny >/dev/null; then
  step 'licences and advisories' cargo deny --locked check
else
  say 'cargo-deny is not installed: licences and advisories are not checked'
fi
step 'what is released serves' tests/smoke.sh
say "all passed in $((SECONDS - started))s"
