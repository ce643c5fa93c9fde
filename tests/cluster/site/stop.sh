#!/bin/sh
# usage: stop.sh FOLDER
# Cancels the jobs of a Slurm that start.sh started and stops its processes, by the ids in its pid files.
set -u
folder=$(cd "${1:?usage: stop.sh FOLDER}" && pwd)
export SLURM_CONF="$folder/slurm.conf"
jobs=$(squeue -h -o %A 2>/dev/null | sort -u)
# shellcheck disable=SC2086
[ -z "$jobs" ] || scancel $jobs
end=$(($(date +%s) + 10))
while [ -n "$(squeue -h -o %A 2>/dev/null)" ] && [ "$(date +%s)" -lt "$end" ]; do sleep 0.2; done

ids=
for file in "$folder"/run/slurmd.*.pid "$folder/run/slurmctld.pid" "$folder/run/munged.pid"; do
  [ -s "$file" ] && ids="$ids $(cat "$file")"
done
alive() { for id in $ids; do kill -0 "$id" 2>/dev/null && return 0; done; return 1; }
for signal in TERM KILL; do
  for id in $ids; do kill -s "$signal" "$id" 2>/dev/null; done
  end=$(($(date +%s) + 8))
  while alive && [ "$(date +%s)" -lt "$end" ]; do sleep 0.1; done
  alive || break
done
rm -rf "$folder/state" "$folder/run" "$folder"/spool.* "$folder"/tmp.*
