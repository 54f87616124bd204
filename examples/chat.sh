#!/usr/bin/env bash
# One chat completion with curl.
set -euo pipefail
URL="${FORMGATE_URL:-http://127.0.0.1:8000}"
MODEL=$(curl -sf "$URL/v1/models" | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
curl -sf "$URL/v1/chat/completions" -H 'Content-Type: application/json' -d "{
  \"model\": \"$MODEL\",
  \"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of Japan?\"}],
  \"temperature\": 0
}"
