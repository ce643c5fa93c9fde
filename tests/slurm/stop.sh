#!/bin/sh
# usage: stop.sh FOLDER
# Cancels the jobs of a Slurm that start.sh started and ends its processes, by the ids in its own files.
set -u
folder=$(cd "${1:?usage: stop.sh FOLDER}" && pwd)
export SLURM_CONF="$folder/slurm.conf"
jobs=$(squeue -h -o %A 2>/dev/null | sort -u)
# shellcheck disable=SC2086
[ -z "$jobs" ] || scancel $jobs
tries=0
while [ -n "$(squeue -h -o %A 2>/dev/null)" ] && [ "$tries" -lt 100 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
for file in "$folder"/run/slurmd.*.pid "$folder/run/slurmctld.pid" "$folder/run/munged.pid"; do
  [ -s "$file" ] || continue
  id=$(cat "$file")
  kill "$id" 2>/dev/null || continue
  tries=0
  while kill -0 "$id" 2>/dev/null && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
done
rm -rf "$folder/state" "$folder/run" "$folder"/spool.* "$folder"/tmp.*
