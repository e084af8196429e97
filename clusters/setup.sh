#!/usr/bin/env bash
# Makes a machine a node: the project's tested versions in ~/vit-venv, first on the PATH, Ray's token mode on, and the cache
# of shards on its instance disks if it has any. `ray up` runs it on every node; where nothing has changed it takes no time.
# Arguments: more packages.
set -euo pipefail
cd "$(dirname "$0")/.."
chmod 600 ~/.ray/auth_token
if ! cmp -s constraints.txt ~/vit-venv/.constraints; then
    python3 -m venv ~/vit-venv
    ~/vit-venv/bin/python -m pip install --quiet --constraint constraints.txt --editable . "$@"
    cp constraints.txt ~/vit-venv/.constraints
fi
# In front: Ubuntu's .bashrc ends early in shells that nobody types into.
cache=$(bash clusters/disk.sh)
line='export RAY_AUTH_MODE=token PATH=$HOME/vit-venv/bin:$PATH'${cache:+" VIT_SHARD_CACHE=$cache"}
if ! grep -qxF "$line" ~/.bashrc; then
    { echo "$line" && cat ~/.bashrc; } > ~/.bashrc.new
    mv ~/.bashrc.new ~/.bashrc
fi
