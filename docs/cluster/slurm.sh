#!/bin/bash
# One run of neuron-atlas under SLURM: sbatch docs/cluster/slurm.sh RECIPE [--set SECTION.KEY=VALUE …]
#
# Each node of the job becomes a node of one Ray cluster, the first one its head and the place of the driver. Shards and
# output.root must be readable on all of them. A job that is preempted, loses a node or comes to its time limit is put
# back into the queue and goes on from what is committed. docs/cluster.md says how to use it.
#SBATCH --job-name=neuron-atlas
#SBATCH --nodes=4
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=neuron-atlas-%j.log

set -euo pipefail
recipe=${1:?"usage: sbatch slurm.sh RECIPE [--set SECTION.KEY=VALUE …]"}

source "${NEURON_ATLAS_VENV:-$HOME/neuron-atlas/.venv}/bin/activate"

# This shell runs on the first node. By its address, as its name may lead to a loopback address there.
address="$(hostname -I | cut -d' ' -f1):6379"

# Without a token, everybody on the cluster's network could run code in this job.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

# Of the wait for all nodes; a virtual environment on a network file system is slow to start from.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

# SLURM puts preempted jobs back by itself, those at their time limit it does not. The signal comes two minutes before.
trap 'scontrol requeue "$SLURM_JOB_ID"; exit 0' USR1

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --temp-dir "/tmp/ray-$SLURM_JOB_ID" -- \
    neuron-atlas run "$recipe" --address auto "${@:2}" &
wait $! # in the background, because bash runs traps only between commands
