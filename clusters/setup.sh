#!/usr/bin/env bash
# Makes a machine a node: the project's tested versions in ~/vit-venv, first on the PATH, Ray's token mode on, and the cache
# of shards on its instance disks if it has any. `ray up` runs it on every node; where nothing has changed it takes no time.
# Arguments: more packages. The environment goes into the file that NODE_RC names, .bashrc unless set; a ~/vit-venv that is
# there already, of a Python from 3.11 on, is used.
set -euo pipefail
cd "$(dirname "$0")/.."
chmod 600 ~/.ray/auth_token
if ! cmp -s constraints.txt ~/vit-venv/.constraints; then
    ~/vit-venv/bin/python -m pip --version > /dev/null 2>&1 || python3 -m venv ~/vit-venv
    ~/vit-venv/bin/python -m pip install --quiet --constraint constraints.txt --editable . "$@"
    cp constraints.txt ~/vit-venv/.constraints
fi
# In front: Ubuntu's .bashrc ends early in shells that nobody types into.
cache=$(bash clusters/disk.sh || true)  # without one, shards go where the node has room; why, it has said
line='export RAY_AUTH_MODE=token PATH=$HOME/vit-venv/bin:$PATH'${cache:+" VIT_SHARD_CACHE=$cache"}
rc=${NODE_RC:-$HOME/.bashrc}
touch "$rc"
if ! grep -qxF "$line" "$rc"; then
    { echo "$line" && cat "$rc"; } > "$rc.new"
    mv "$rc.new" "$rc"
fi
