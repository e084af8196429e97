#!/usr/bin/env bash
# Prints a folder on this machine's NVMe instance disks, for the cache of shards; nothing where there are none. Makes one
# file system of EC2's or Google Cloud's that are empty, on /mnt/nvme, and touches no other disk: one with anything on it
# stays as it is. AWS's deep learning image has them on /opt/dlami/nvme already. What is there goes with the machine.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo --non-interactive "$@"; fi; }
models='Amazon EC2 NVMe Instance Storage|nvme_card[0-9]*'

is_empty() {  # nothing that blkid knows (2 is its answer then), and no partition or volume above
    local answer=0
    root blkid --probe "$1" > /dev/null || answer=$?
    [ "$answer" = 2 ] && [ "$(lsblk --noheadings "$1" | wc -l)" = 1 ]
}

place=/opt/dlami/nvme
if ! mountpoint --quiet "$place"; then
    place=/mnt/nvme
    if ! mountpoint --quiet "$place"; then
        disks=()
        while read -r disk; do
            if is_empty "$disk"; then disks+=("$disk"); fi
        done < <(lsblk --nodeps --noheadings --paths --bytes --output SIZE,NAME,MODEL | sort --numeric-sort --reverse |
            sed --quiet --regexp-extended "s/^\s*[0-9]+\s+(\S+)\s+($models)\s*$/\1/p")  # largest first
        if [ ${#disks[@]} = 0 ]; then exit 0; fi
        if [ ${#disks[@]} -gt 1 ] && command -v mkfs.btrfs > /dev/null; then
            root mkfs.btrfs --quiet --data raid0 --metadata raid0 "${disks[@]}" >&2
        else
            root mkfs.ext4 -q "${disks[0]}" >&2
        fi
        root mkdir -p "$place"
        root mount -o noatime "${disks[0]}" "$place"
    fi
fi
root mkdir -p "$place/vit_trainer"
root chown "$(id -u):$(id -g)" "$place/vit_trainer"
echo "$place/vit_trainer"
