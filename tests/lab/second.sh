#!/bin/bash
# A second machine for the tests: Debian 13 in a folder, in name spaces of its own, with HTCondor 23.9, Slurm 24.11 (accounting
# off) and Python 3.13; other releases than the lab's, of another distribution.
#
#   second.sh install PYTHON   make it (mmdebstrap, some 400 MB), with the Python packages of the tests; PYTHON is one with pip
#   second.sh up               start it, where it does not run
#   second.sh test ARGUMENT... run pytest there, as its user, on the source as it is here now
#   second.sh in COMMAND...    run a command there, as root
#   second.sh down             end it, by the pid of its first process
#
# It is in $CLUSTERJOB_SECOND (default: clusterjob-second in the temporary folder). Nothing of it listens outside its network
# name space, which has loopback alone.
set -eu

TOP=${CLUSTERJOB_SECOND:-${TMPDIR:-/tmp}/clusterjob-second}
ROOT=$TOP/root
NETNS=clusterjob-second
ADDRESS=10.98.0.1
HERE=$(dirname "$(readlink -f "$0")")
SOURCE=$(dirname "$(dirname "$HERE")")
PACKAGES=minicondor,slurm-wlm,munge,python3,openssh-client,iproute2,procps

alive() { [ -f "$TOP/pid" ] && kill -0 "$(cat "$TOP/pid")" 2>/dev/null; }

inside() { nsenter -t "$(cat "$TOP/pid")" -n -m -p -u -i -r -w "$@"; }

install_packages() {
    [ "$(id -u)" = 0 ] || { echo "second: making a machine needs root" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    command -v mmdebstrap >/dev/null ||
        { apt-get update -q && apt-get install -y -q --no-install-recommends mmdebstrap iproute2; } >/dev/null
}

# the mirror that this machine uses
mirror() {
    local found
    found=$(awk '$1 == "URIs:" {print $2; exit}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
    [ -n "$found" ] || found=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' /etc/apt/sources.list)
    echo "$found"
}

make_machine() {   # make_machine PYTHON
    mkdir -p "$TOP"
    if [ ! -e "$TOP/made" ]; then
        install_packages
        rm -rf "$ROOT"
        mmdebstrap --quiet --variant=minbase --include=$PACKAGES trixie "$ROOT" \
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main"
        touch "$TOP/made"
    fi
    if [ ! -e "$TOP/packages" ]; then
        "$1" -m pip install -q --disable-pip-version-check --target "$ROOT/opt/packages" --python-version 3.13 \
            --only-binary=:all: jinja2 paramiko click "pytest<9.2" pytest-mock pytest-xdist hypothesis
        # as if they were installed; the source comes with every start
        printf '%s\n' /opt/packages /opt/clusterjob >"$ROOT/usr/lib/python3/dist-packages/clusterjob.pth"
        touch "$TOP/packages"
    fi
}

write_configuration() {
    # without the settings after the intervals its starter cannot execute anything in name spaces (errno 22)
    printf '%s\n' NUM_CPUS=16 MEMORY=16000 NETWORK_INTERFACE=$ADDRESS CONDOR_HOST=$ADDRESS NEGOTIATOR_INTERVAL=2 \
        NEGOTIATOR_MIN_INTERVAL=1 NEGOTIATOR_CYCLE_DELAY=1 SCHEDD_INTERVAL=2 SCHEDD_MIN_INTERVAL=1 PERIODIC_EXPR_INTERVAL=5 \
        BASE_CGROUP= CGROUP_MEMORY_LIMIT_POLICY=none USE_PID_NAMESPACES=False DISCARD_SESSION_KEYRING_ON_STARTUP=False \
        MOUNT_UNDER_SCRATCH= MOUNT_PRIVATE_DEV_SHM=False >"$ROOT/etc/condor/config.d/99-lab"
    mkdir -p "$ROOT/etc/slurm"
    printf '%s\n' ClusterName=second "SlurmctldHost=second($ADDRESS)" SlurmUser=slurm AuthType=auth/munge \
        StateSaveLocation=/var/lib/slurm/ctld SlurmdSpoolDir=/var/spool/slurmd/%n SlurmctldPidFile=/run/slurmctld.pid \
        SlurmdPidFile=/run/slurmd-%n.pid ProctrackType=proctrack/linuxproc TaskPlugin=task/none ReturnToService=2 \
        SelectType=select/cons_tres SelectTypeParameters=CR_Core_Memory \
        SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1 \
        SlurmdParameters=config_overrides JobAcctGatherType=jobacct_gather/linux MinJobAge=60 KillWait=2 InactiveLimit=0 \
        AccountingStorageType=accounting_storage/none \
        "NodeName=node1 NodeHostname=second NodeAddr=$ADDRESS Port=17001 CPUs=16 RealMemory=8000 State=UNKNOWN" \
        'PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=100' >"$ROOT/etc/slurm/slurm.conf"
    echo CgroupPlugin=disabled >"$ROOT/etc/slurm/cgroup.conf"
    cat >"$ROOT/init.sh" <<I
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
hostname second
grep -qw second /etc/hosts || echo '$ADDRESS second' >>/etc/hosts
id u1 >/dev/null 2>&1 || useradd -m -s /bin/bash u1
mkdir -p /run/lock/condor /run/condor /run/munge /var/lib/slurm/ctld /var/spool/slurmd
chown condor:condor /run/lock/condor /run/condor
chown munge:munge /run/munge && chmod 755 /run/munge
chown slurm:slurm /var/lib/slurm/ctld
[ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
chown munge:munge /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
setpriv --reuid munge --regid munge --clear-groups munged
setpriv --reuid slurm --regid slurm --clear-groups slurmctld -D >/var/log/slurmctld.out 2>&1 </dev/null &
(sleep 3; exec slurmd -D -N node1 >/var/log/slurmd.out 2>&1 </dev/null) &
exec condor_master -f
I
}

start() {
    alive && return 0
    write_configuration
    ip netns list | grep -qw $NETNS || ip netns add $NETNS
    nsenter --net=/run/netns/$NETNS ip link set lo up
    nsenter --net=/run/netns/$NETNS ip addr add $ADDRESS/32 dev lo 2>/dev/null || true
    nsenter --net=/run/netns/$NETNS setsid unshare --pid --fork --kill-child --mount --uts --ipc \
        sh -c "mount --make-rprivate /; mount --rbind /dev '$ROOT/dev'; exec chroot '$ROOT' sh /init.sh" >"$TOP/log" 2>&1 </dev/null &
    local outer=$!
    for _ in $(seq 50); do pgrep -P $outer >"$TOP/pid" && break; sleep 0.1; done
    for _ in $(seq 300); do
        inside sh -c 'sinfo -h -o %T | grep -q idle && condor_status | grep -q LINUX' 2>/dev/null && return 0
        sleep 0.2
    done
    echo "second: not ready after a minute; see $TOP/log" >&2
    return 1
}

bring_source() {
    rm -rf "$ROOT/opt/clusterjob"
    mkdir -p "$ROOT/opt/clusterjob"
    tar -C "$SOURCE" --exclude=__pycache__ -cf - pyproject.toml setup.cfg setup.py clusterjob backends tests |
        tar -C "$ROOT/opt/clusterjob" -xf -
    inside chown -R u1 /opt/clusterjob
}

run_tests() {
    inside su u1 -c "cd /opt/clusterjob && CLUSTERJOB_REQUIRE_LAB= CLUSTERJOB_MACHINE=second python3 -m pytest -p no:cacheprovider $*"
}

case ${1:-} in
    install) make_machine "${2:-python3}" ;;
    up) start ;;
    test) shift; start && bring_source && run_tests "$@" ;;
    in) shift; inside "$@" ;;
    down) if alive; then kill -9 "$(cat "$TOP/pid")"; fi; rm -f "$TOP/pid" ;;
    *) sed -n '2,13p' "$0" >&2; exit 2 ;;
esac
