#!/usr/bin/env bash
# MLflow on the head: behind loopback, with its data in ~/mlflow, started again whenever it ends and when the machine
# boots. `ray up` runs this; while one is running it does nothing. For PostgreSQL or a bucket, set these two before it:
#   MLFLOW_BACKEND=postgresql+psycopg2://user@host/mlflow  (the password in ~/.pgpass)   MLFLOW_ARTIFACTS=s3://bucket/mlflow
set -euo pipefail
export BACKEND="${MLFLOW_BACKEND:-sqlite:///$HOME/mlflow/mlflow.db}" ARTIFACTS="${MLFLOW_ARTIFACTS:-$HOME/mlflow/artifacts}"
export PATH="$HOME/vit-venv/bin:$PATH"
if command -v crontab > /dev/null; then
    at_boot="@reboot MLFLOW_BACKEND='$BACKEND' MLFLOW_ARTIFACTS='$ARTIFACTS' bash '$(readlink -f "$0")'"
    { crontab -l 2> /dev/null | grep -vF "$(readlink -f "$0")" || true; echo "$at_boot"; } | crontab -
fi
mkdir -p ~/mlflow
cd ~/mlflow
exec 9> lock
flock --nonblock 9 || exit 0
setsid nohup bash -c 'while :; do
    mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
        --backend-store-uri "$BACKEND" --artifacts-destination "$ARTIFACTS"
    sleep 5
done' < /dev/null >> server.log 2>&1 &
# A sweep may come as soon as this ends, and wants an answer.
for _ in $(seq 240); do
    (: < /dev/tcp/127.0.0.1/5000) 2> /dev/null && exit
    sleep 0.5
done
echo "MLflow's server doesn't answer within two minutes: see ~/mlflow/server.log" >&2
exit 1
