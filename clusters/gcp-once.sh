#!/usr/bin/env bash
# Once per Google Cloud project, with an owner's credentials: what gcp-a100.yaml names. Not yet run against Google Cloud.
#   bash clusters/gcp-once.sh PROJECT ADDRESSES     ADDRESSES, such as 198.51.100.7/32, may reach the machines' SSH
set -euo pipefail
project=$1 addresses=$2
bucket=$(sed 's,^gs://,,' "$(dirname "$0")/bucket")
account() { echo "vit-sweeps-$1@$project.iam.gserviceaccount.com"; }

gcloud services enable --project "$project" compute.googleapis.com iam.googleapis.com cloudresourcemanager.googleapis.com

# A network that lets in SSH alone, and everything among its own machines.
gcloud compute networks create vit-sweeps --project "$project" --subnet-mode auto
gcloud compute firewall-rules create vit-sweeps-ssh --project "$project" --network vit-sweeps \
    --allow tcp:22 --source-ranges "$addresses"
gcloud compute firewall-rules create vit-sweeps-within --project "$project" --network vit-sweeps \
    --allow all --source-ranges 10.128.0.0/9

# The head starts and ends workers; both read and write the bucket, and nothing else.
for name in head worker; do
    gcloud iam service-accounts create "vit-sweeps-$name" --project "$project"
    gcloud storage buckets add-iam-policy-binding "gs://$bucket" \
        --member "serviceAccount:$(account "$name")" --role roles/storage.objectUser
done
gcloud projects add-iam-policy-binding "$project" --condition None \
    --member "serviceAccount:$(account head)" --role roles/compute.instanceAdmin.v1
gcloud iam service-accounts add-iam-policy-binding "$(account worker)" --project "$project" \
    --member "serviceAccount:$(account head)" --role roles/iam.serviceAccountUser
