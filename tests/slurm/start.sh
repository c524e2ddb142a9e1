#!/usr/bin/env bash
# Starts a Slurm of one machine, a controller and a node with two slots and two places for GPUs, which keeps all of its files in FOLDER.
#   tests/slurm/start.sh FOLDER && export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm/start.sh FOLDER stop
# Needs root, and Debian's slurm-wlm and munge. It runs beside another Slurm, and asks for no container and no init.
set -euo pipefail
folder=$(realpath -m "$1")
stop() {
    for name in slurmd slurmctld munged; do
        if [ -e "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
    done
}
if [ "${2:-}" = stop ]; then
    stop
    exit
fi
trap stop ERR
mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
host=$(hostname -s)
# Slurm lets a job that is put back wait until the credentials of its first run have expired, usually two minutes: here five seconds.
# Ports of its own, by the number of this process.
port=$((20000 + $$ % 20000))
mungekey --create --force --keyfile="$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
# Slurm wants a file for each GPU, and never opens it.
touch "$folder"/gpu{0,1}
cat > "$folder/gres.conf" << END
NodeName=$host Name=gpu File=$folder/gpu[0-1]
END
cat > "$folder/cgroup.conf" << END
CgroupAutomount=no
END
cat > "$folder/slurm.conf" << END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
GresTypes=gpu
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=1
KillWait=2
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd
for _ in $(seq 100); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then exit; fi
    sleep 0.2
done
echo "the node does not become idle; see $folder/slurmctld.log and slurmd.log" >&2
stop
exit 1
