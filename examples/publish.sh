#!/usr/bin/env bash
# Publish one message to Leadline with the `nats` command line: examples/publish.sh [nats://127.0.0.1:4222]
set -euo pipefail
export LC_ALL=C
url=${1:-nats://127.0.0.1:4222}

# An id as a subject's token: what is outside A-Za-z0-9_- is written =XX per UTF-8 byte.
token() {
  printf '%s' "$1" | od -An -v -tx1 | tr -s ' \n' '\n' | while read -r byte; do
    [ -z "$byte" ] && continue
    char=$(printf "\\x$byte")
    case $char in
      [A-Za-z0-9_-]) printf '%s' "$char" ;;
      *) printf '=%s' "${byte^^}" ;;
    esac
  done
}

message_id='wamid.HBgLNDkxNTExMjM0NTY4FQIAEhg='
business=$(token 'acme-foods')
lead=$(token '+4915112345678')

# --jetstream waits for the confirmation, after which the message is not lost.
nats --server "$url" pub --jetstream -H "Nats-Msg-Id:$business/$lead/$message_id" "leads.in.$business.$lead" '{
  "message_id": "'"$message_id"'",
  "business_id": "acme-foods",
  "lead_id": "+4915112345678",
  "intent": "PRICING_INQUIRY",
  "confidence": 0.88,
  "text": "How much is a bag of flour?"
}'
