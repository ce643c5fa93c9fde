#!/bin/sh
# usage: start.sh FOLDER [NODES] [CPUS] [PORT]
# Starts a Slurm of virtual nodes on this machine without accounting. Its files are in FOLDER; only the names of the
# nodes are added to /etc/hosts. Needs root, and the Debian packages slurm-wlm and munge.
#   . FOLDER/environment     selects it for the commands of Slurm
#   sh tests/cluster/site/stop.sh FOLDER
set -eu
folder=${1:?usage: start.sh FOLDER [NODES] [CPUS] [PORT]}
nodes=${2:-4} cpus=${3:-2} port=${4:-26817}
mkdir -p "$folder/state" "$folder/log" "$folder/run"
folder=$(cd "$folder" && pwd)
chmod 755 "$folder"
host=$(hostname -s)

# Processes of a job connect to each other by node name.
k=1
while [ "$k" -le "$nodes" ]; do
  getent hosts "vnode$k" >/dev/null || echo "127.0.0.1 vnode$k" >>/etc/hosts
  k=$((k + 1))
done

[ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" --pid-file="$folder/run/munged.pid" \
  --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed"

# cred_expire: a requeued job starts again after seconds, not two minutes. Each node has its own spool and TmpFS.
# MpiDefault=none, as at many sites: profiles set --mpi. OverMemoryKill: jobs that exceed their memory are killed without
# cgroups; the nodes have more memory in the configuration than on the machine.
cat >"$folder/slurm.conf" <<CONF
ClusterName=virtual
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock,cred_expire=5
AccountingStorageType=accounting_storage/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
TmpFS=$folder/tmp.%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=4000
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
PropagateResourceLimitsExcept=ALL
JobRequeue=1
KillWait=5
MinJobAge=3600
ReturnToService=1
MessageTimeout=20
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=vnode[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
echo "export SLURM_CONF=$folder/slurm.conf" >"$folder/environment"
export SLURM_CONF="$folder/slurm.conf"

slurmctld
k=1
while [ "$k" -le "$nodes" ]; do
  mkdir -p "$folder/spool.vnode$k" "$folder/tmp.vnode$k"
  slurmd -N "vnode$k"
  k=$((k + 1))
done
tries=0
while [ "$(sinfo -h -t idle -o %D 2>/dev/null)" != "$nodes" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 150 ] || { echo "the nodes did not come up, see $folder/log" >&2; exit 1; }
  sleep 0.1
done
sinfo
echo ". $folder/environment"
