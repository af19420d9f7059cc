#!/bin/bash
#SBATCH --job-name=hpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
# Ray on every node of the job, the study on the first:  sbatch slurm.sh cluster.yaml
# Two minutes before the time limit the study is saved; the same command goes on with it. Submit from
# a folder that all nodes have, mlruns with it, where hpo and ray are commands (activate the venv).
set -euo pipefail
spec=${1:-cluster.yaml}
port=${RAY_PORT:-6379}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
on() { srun --overlap --nodes=1 --ntasks=1 -w "$@"; }

# One token for the job, so that nobody else on the network can use its cluster.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(on "${nodes[0]}" hostname --ip-address | cut -d' ' -f1):$port
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
on "${nodes[0]}" ray start --head --node-ip-address="${address%:*}" --port="$port" \
  --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false --block > ray-head.log 2>&1 &
for _ in $(seq 60); do
  ray status --address "$address" > /dev/null 2>&1 && break
  sleep 1
done
for node in "${nodes[@]:1}"; do
  on "$node" ray start --address="$address" \
    --num-cpus="$cpus" --num-gpus="$gpus" --block > "ray-$node.log" 2>&1 &
done

name=$(hpo check "$spec" --no-probe --print-spec | sed -n 's/^name: //p')
resume=()
[ -d "mlruns/studies/$name" ] && resume=(--resume)
hpo run "$spec" --engine ray --ray-address "$address" "${resume[@]}" &
study=$!
trap 'kill -TERM $study' TERM
code=0
wait "$study" || code=$?
[ "$code" = 143 ] && { code=0; wait "$study" || code=$?; }  # the wait was cut short, not the study
exit "$code"
