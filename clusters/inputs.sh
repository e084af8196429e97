#!/usr/bin/env bash
# Checkpoints and data sets onto a worker, from one's own bucket. Arguments: names for `vit_trainer fetch`.
# The bucket's name stands once, for all files here: in clusters/bucket, one line such as s3://my-bucket or gs://my-bucket,
# which git ignores and `ray up` copies to the nodes. It is filled once, from any machine:
#   python -m vit_trainer fetch cifar10 ViT-B_16 --to "$(cat clusters/bucket)/inputs"
set -euo pipefail
cd "$(dirname "$0")"
if ! bucket=$(cat bucket 2> /dev/null); then
    echo "clusters/bucket isn't there: echo s3://my-bucket > clusters/bucket, in the project's folder; then ray up again" >&2
    exit 2
fi
place=${bucket%%\?*}  # options may follow, as in s3://my-bucket?region=eu-west-1
~/vit-venv/bin/python -m vit_trainer fetch "$@" --source "${place%/}/inputs${bucket#"$place"}"
