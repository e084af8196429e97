#!/usr/bin/env bash
# Makes one Ray cluster of the nodes of a SkyPilot job, and runs a command on the first of them: the arguments. SkyPilot has
# a Ray of its own there, at port 6380 and without a token: hence other ports, another folder, and no `ray stop`, which would
# end both.
set -euo pipefail
. ~/vit-venv/.rc
export RAY_TMPDIR=${VIT_RAY_TMPDIR:-/tmp/vit-sweeps}
head=$(head -n 1 <<< "$SKYPILOT_NODE_IPS") port=${VIT_RAY_PORT:-6379}
unset RAY_ADDRESS RAY_AUTH_TOKEN  # the token is in its file
ulimit -n 65536 2> /dev/null || true
vit-sweeps check-node --gpus "$SKYPILOT_NUM_GPUS_PER_NODE"  # says why, and ends the job, where a machine isn't whole

join() {  # in the background, where it is Ray's process
    exec ray start --block --disable-usage-stats --num-gpus="$SKYPILOT_NUM_GPUS_PER_NODE" --dashboard-agent-listen-port=0 \
        --min-worker-port=20000 --max-worker-port=29999 "$@"
}

head_listens() { (: < "/dev/tcp/$head/$port") 2> /dev/null; }

if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
    for _ in $(seq 600); do
        if head_listens; then break; fi
        sleep 1
    done
    join --address="$head:$port" &
    ray=$!
    while kill -0 $ray 2> /dev/null && head_listens; do sleep 2; done  # Ray itself would look for it another minute
    kill -KILL $ray 2> /dev/null || true  # its processes end with it; there is nobody left to say goodbye to
    wait $ray || true
    exit 0  # what came of it, the first node says
fi

join --head --port="$port" --node-ip-address="$head" --include-dashboard=false --ray-client-server-port=10011 &
ray=$!
trap 'kill $ray 2> /dev/null; wait $ray || true' EXIT
export RAY_ADDRESS=$head:$port
python - "$SKYPILOT_NUM_NODES" << 'END'
import sys, time
import ray

for _ in range(600):
    try:
        ray.init(log_to_driver=False, logging_level="error")
        break
    except ConnectionError:
        time.sleep(1)
for _ in range(600):
    if (there := sum(node["Alive"] for node in ray.nodes())) >= int(sys.argv[1]):
        break
    time.sleep(1)
print(f"{there} of {sys.argv[1]} nodes are there", flush=True)
END

"$@" &
command=$! code=0
trap 'kill -TERM $command' TERM INT  # a sweep keeps its states then
while kill -0 $command 2> /dev/null; do
    wait $command && code=0 || code=$?
done
exit $code
