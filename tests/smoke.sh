#!/usr/bin/env bash
# What is released, though not optimised, starts on an empty directory, answers, and stops when told
# to.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --profile smoke --locked --bin digital-card
binary=${CARGO_TARGET_DIR:-target}/smoke/digital-card
directory=$(mktemp -d)
"$binary" serve --store "sqlite:$directory" --listen 127.0.0.1:0 >"$directory/out" 2>&1 &
service=$!
trap 'kill "$service" 2>/dev/null || true; rm -rf "$directory"' EXIT
for _ in $(seq 100); do
  address=$(grep -o 'http://127.0.0.1:[0-9]*' "$directory/out" | head -n 1) && break
  kill -0 "$service" 2>/dev/null || break
  sleep 0.1
done
if [ -z "${address:-}" ]; then
  echo 'the service did not say where it listens; it said:'
  cat "$directory/out"
  exit 1
fi
curl -fsS "$address/readyz" >/dev/null
kill "$service"
wait "$service"
