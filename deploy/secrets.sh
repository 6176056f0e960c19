#!/bin/sh
# Prints a fresh .env for compose.yaml: the address given, and each secret at random. Once: other values than those a
# running set-up was made with lock it out of its own database and store.
set -eu
url=${1:?usage: (umask 077; sh secrets.sh https://HOST > .env)}
random() { LC_ALL=C tr -dc "$1" </dev/urandom | head -c "$2"; }
echo "WHARFAGE_SERVER_URL=$url"
echo "WHARFAGE_ACCESS_KEY_ID=AKIA$(random A-Z2-7 16)"
echo "WHARFAGE_SECRET_ACCESS_KEY=$(random A-Za-z0-9 40)"
echo "WHARFAGE_METADATA_SECRET=$(random A-Za-z0-9 40)"
echo "WHARFAGE_STORAGE_ACCESS_KEY_ID=AKIA$(random A-Z2-7 16)"
echo "WHARFAGE_STORAGE_SECRET_ACCESS_KEY=$(random A-Za-z0-9 40)"
echo "POSTGRES_PASSWORD=$(random A-Za-z0-9 40)"
