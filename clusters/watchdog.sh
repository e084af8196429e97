#!/usr/bin/env bash
# Stops the head when no job has run for so many minutes (the argument): a forgotten head costs money. Workers are gone
# by then, and the head's disk stays. `ray up` runs this, and the machine when it boots; while one is running it does
# nothing. To keep the head all the same: touch ~/keep-running
set -euo pipefail
export minutes=$1 RAY_AUTH_MODE=token PATH="$HOME/vit-venv/bin:$PATH"
if command -v crontab > /dev/null; then
    at_boot="@reboot bash '$(readlink -f "$0")' $minutes"
    { crontab -l 2> /dev/null | grep -vF "$(readlink -f "$0")" || true; echo "$at_boot"; } | crontab -
fi
exec 8> ~/watchdog.lock
flock --nonblock 8 || exit 0
setsid nohup bash -c '
    idle=0
    while sleep "${WATCHDOG_SECONDS:-60}"; do
        # A Ray that does not answer runs nothing either.
        if [ -e ~/keep-running ] || ray job list --address http://127.0.0.1:8265 2> /dev/null | grep -qE "RUNNING|PENDING"; then
            idle=0
        else
            idle=$((idle + 1))
        fi
        if [ "$idle" -ge "$minutes" ]; then
            echo "$(date -u +%FT%TZ) nothing has run for $minutes minutes: stopping this machine"
            sudo shutdown -h now
        fi
    done' < /dev/null >> ~/watchdog.log 2>&1 &
