#!/usr/bin/env bash
# sbatch docs/cluster/slurm.sh tune toy --space all_methods        (in the root of the project)
# A vop command on the machines of a Slurm job: Ray starts on each of them, the command runs on the first, Ray ends with it.
# data.cache and tracking.output must be on a disk that all of them share; here they are in the folder of this call.
#SBATCH --job-name=vop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

source .venv/bin/activate # <-- the environment with this project
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | cut -d' ' -f1):6379

# A token of this job's own: nobody else on these machines may use its Ray.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

srun --kill-on-bad-exit=0 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    env RAY_ADDRESS="$address" vop "$@" "data.cache=$PWD/cache" "tracking.output=$PWD/runs"
