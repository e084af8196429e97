#!/usr/bin/env bash
# MLflow on the head: behind loopback, with its data in ~/mlflow, started again whenever it ends. `ray up` runs this;
# while one is running it does nothing. For PostgreSQL or a bucket, set these two in head_start_ray_commands:
#   MLFLOW_BACKEND=postgresql+psycopg2://user@host/mlflow  (the password in ~/.pgpass)   MLFLOW_ARTIFACTS=s3://bucket/mlflow
set -euo pipefail
mkdir -p ~/mlflow
cd ~/mlflow
exec 9> lock
flock --nonblock 9 || exit 0
export BACKEND="${MLFLOW_BACKEND:-sqlite:///$HOME/mlflow/mlflow.db}" ARTIFACTS="${MLFLOW_ARTIFACTS:-$HOME/mlflow/artifacts}"
setsid nohup bash -c 'while :; do
    mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
        --backend-store-uri "$BACKEND" --artifacts-destination "$ARTIFACTS"
    sleep 5
done' < /dev/null >> server.log 2>&1 &
