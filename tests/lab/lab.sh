#!/bin/bash
# Real schedulers for the tests, in a network namespace of their own: nothing listens where others could reach it.
#
#   lab.sh install          Debian's packages (root)
#   lab.sh up [NAME...]     start: slurm (slurmdbd behind it), noacct (a second Slurm, accounting off), sge, pbs, ssh; default:
#                           all (pbs where there is one)
#   lab.sh down [NAME...]   stop what `up` started, by the pids it was started with
#   lab.sh stop DAEMON...   stop single daemons (slurm-ctld, slurmdbd, noacct-ctld, sge-qmaster ...); `up` starts them again
#
# State, logs and pids live under $CLUSTERJOB_LAB (default: clusterjob-lab in the temporary folder).
# `up` is idempotent; a warm start of all three takes about five seconds. README.md beside this file says more.
set -eu

LAB=${CLUSTERJOB_LAB:-${TMPDIR:-/tmp}/clusterjob-lab}
NETNS=clusterjob-lab
PACKAGES="slurmctld slurmd slurm-client munge slurmdbd mariadb-server iproute2
          gridengine-master gridengine-exec gridengine-client gridengine-common
          postgresql openssh-server openssh-client libpam-google-authenticator tcsh fish busybox
          libpython3.11-testsuite"
# Debian has no package of OpenPBS: CONTRIBUTING.md says how to build one
PBS=${CLUSTERJOB_PBS:-/opt/pbs}
PBS_HOME=/var/spool/pbs   # its mom takes none in a folder that others may write to
PBS_PACKAGES="libcjson1 libhwloc15 libical3 libpq5 libpython3.11 tcl8.6 tk8.6 libedit2"
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
unset XDG_RUNTIME_DIR   # Grid Engine's jobs have the environment of its daemons

alive() { [ -f "$LAB/run/$1.pid" ] && kill -0 "$(cat "$LAB/run/$1.pid")" 2>/dev/null; }

# nsenter, not `ip netns exec`: the latter hides /sys/fs/cgroup behind a fresh /sys
inside() { nsenter --net=/run/netns/$NETNS "$@"; }

# start NAME COMMAND...: a daemon in the namespace, its pid written down
start() {
    local name=$1; shift
    alive "$name" && return 0
    (cd / && exec setsid nsenter --net=/run/netns/$NETNS "$@" >"$LAB/run/$name.log" 2>&1 </dev/null) &
    echo $! >"$LAB/run/$name.pid"
}

# stop NAME [SECONDS]: TERM, then KILL when it does not go
stop() {
    alive "$1" || return 0
    local pid; pid=$(cat "$LAB/run/$1.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq $((${2:-5} * 10))); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$LAB/run/$1.pid"
}

until_ok() {
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    echo "lab: not ready after 30 s: $*; logs in $LAB/run" >&2
    return 1
}

install_packages() {
    [ "$(id -u)" = 0 ] || { echo "lab: installing needs root" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    if [ -x "$PBS/bin/qsub" ]; then PACKAGES="$PACKAGES $PBS_PACKAGES"; fi
    # shellcheck disable=SC2086  # several words
    if dpkg -s $PACKAGES >/dev/null 2>&1; then return 0; fi
    apt-get update -q
    apt-get install -y -q --no-install-recommends debconf-utils >/dev/null
    echo 'gridengine-common shared/gridengineconfig boolean true' | debconf-set-selections
    local policy=/usr/sbin/policy-rc.d saved=
    [ -e $policy ] && saved=$(mktemp) && cp -p $policy "$saved"
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy   # the packages start no daemon of their own
    local status=0
    # shellcheck disable=SC2086
    apt-get install -y -q -o DPkg::Lock::Timeout=300 --no-install-recommends $PACKAGES || status=$?
    if [ -n "$saved" ]; then mv "$saved" $policy; else rm -f $policy; fi
    return $status
}

network_up() {
    ip netns list | grep -qw $NETNS || ip netns add $NETNS
    inside ip link set lo up
    # with 127.0.0.1 alone no name resolves (AI_ADDRCONFIG): one more address, still on loopback
    inside ip addr add 10.255.255.1/32 dev lo 2>/dev/null || true
}

munge_up() {
    mkdir -p /run/munge && chown munge:munge /run/munge && chmod 755 /run/munge
    chown munge:munge /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
    rm -f /run/munge/munged.pid
    start munged setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --foreground
    until_ok munge -n
}

accounting_up() {
    mkdir -p /run/mysqld && chown mysql:mysql /run/mysqld
    [ -d /var/lib/mysql/mysql ] || mysql_install_db --user=mysql --datadir=/var/lib/mysql >/dev/null
    start mariadbd setpriv --reuid mysql --regid mysql --clear-groups /usr/sbin/mariadbd --skip-networking \
        --socket=/run/mysqld/mysqld.sock --innodb-buffer-pool-size=256M --innodb-lock-wait-timeout=900
    until_ok mariadb -e 'select 1'
    mariadb -e "create database if not exists slurm_acct_db;
        create user if not exists 'slurm'@'localhost' identified by 'slurm';
        grant all on slurm_acct_db.* to 'slurm'@'localhost'; flush privileges"
    cat >"$LAB/slurm/slurmdbd.conf" <<C
AuthType=auth/munge
DbdHost=localhost
DbdPort=26815
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm_acct_db
StorageUser=slurm
StoragePass=slurm
LogFile=$LAB/slurm/slurmdbd.log
PidFile=$LAB/slurm/slurmdbd.pid
C
    chown slurm:slurm "$LAB/slurm/slurmdbd.conf" && chmod 600 "$LAB/slurm/slurmdbd.conf"
    SLURM_CONF=$LAB/slurm/slurm.conf start slurmdbd setpriv --reuid slurm --regid slurm --clear-groups /usr/sbin/slurmdbd -D
    SLURM_CONF=$LAB/slurm/slurm.conf until_ok inside sacctmgr -n show cluster
    SLURM_CONF=$LAB/slurm/slurm.conf inside sacctmgr -n show cluster | grep -q lab ||
        SLURM_CONF=$LAB/slurm/slurm.conf inside sacctmgr -i add cluster lab >/dev/null 2>&1 || true
}

# slurm_conf NAME PORT: one cluster of two nodes of 16 (overcommitted) CPUs, and one for tests that break it, on ports from PORT on
slurm_conf() {
    local name=$1 port=$2 dir=$LAB/$1
    mkdir -p "$dir/state" "$dir/spool"
    chown slurm:slurm "$dir" "$dir/state"
    cat >"$dir/slurm.conf" <<C
ClusterName=$([ "$name" = slurm ] && echo lab || echo "$name")
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=slurm
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1,default_queue_depth=1000
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
MinJobAge=${MIN_JOB_AGE:-60}
MaxArraySize=20001
MaxJobCount=100000
KillWait=2
InactiveLimit=0
OverTimeLimit=0
NodeName=node[1-3] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 3))] CPUs=16 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=100
PartitionName=short Nodes=node[1-2] MaxTime=1 State=UP DefMemPerCPU=100
PartitionName=fragile Nodes=node3 MaxTime=INFINITE State=UP DefMemPerCPU=100
C
    if [ "$name" = noacct ]; then   # and jobs that others may push aside
        printf '%s\n' PreemptType=preempt/partition_prio PreemptMode=REQUEUE >>"$dir/slurm.conf"
        sed -i '/^PartitionName/s/$/ PriorityTier=10 PreemptMode=OFF/' "$dir/slurm.conf"
        printf 'PartitionName=%s Nodes=node[1-2] PriorityTier=1 State=UP DefMemPerCPU=100 PreemptMode=%s\n' spare CANCEL again REQUEUE >>"$dir/slurm.conf"
    fi
    if [ "$name" = slurm ]; then
        printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=localhost \
            AccountingStoragePort=26815 AccountingStoreFlags=job_comment >>"$dir/slurm.conf"
    else
        echo AccountingStorageType=accounting_storage/none >>"$dir/slurm.conf"
    fi
    if [ -d /sys/fs/cgroup/memory ]; then   # cgroup v1: over memory is a real OUT_OF_MEMORY
        echo TaskPlugin=task/cgroup >>"$dir/slurm.conf"
        printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no ConstrainRAMSpace=yes >"$dir/cgroup.conf"
    else
        printf '%s\n' TaskPlugin=task/none JobAcctGatherParams=OverMemoryKill >>"$dir/slurm.conf"
    fi
}

nodes_ready() {   # a node whose daemon was killed comes back as down: resume it
    inside sinfo -h -N -o %T | grep -vqE '^(idle|mixed|allocated|completing)$' || return 0
    inside scontrol update nodename=node[1-3] state=resume
    return 1
}

slurm_up() {
    local name=$1 port=$2 node
    # leave alone what runs: somebody's tests may be using it
    if alive "$name-ctld" && alive "$name-node1" && alive "$name-node2" && alive "$name-node3" && { [ "$name" != slurm ] || alive slurmdbd; }; then return 0; fi
    munge_up
    slurm_conf "$name" "$port"
    [ "$name" != slurm ] || accounting_up
    export SLURM_CONF=$LAB/$name/slurm.conf
    start "$name-ctld" setpriv --reuid slurm --regid slurm --clear-groups /usr/sbin/slurmctld -D
    until_ok inside scontrol ping
    for node in node1 node2 node3; do start "$name-$node" /usr/sbin/slurmd -D -N $node; done
    until_ok nodes_ready
}

sge_write() {   # sge_write FILE KEY VALUE...: one "key value" line each
    local file=$1; shift
    : >"$file"
    while [ $# -gt 0 ]; do printf '%s %s\n' "$1" "$2" >>"$file"; shift 2; done
}

sge_host() {
    local host; host=$(hostname)
    inside setpriv --reuid sgeadmin --regid sgeadmin --clear-groups qconf -am root >/dev/null 2>&1 || true
    inside qconf -ah "$host" >/dev/null 2>&1 || true
    inside qconf -as "$host" >/dev/null 2>&1 || true
    sge_write "$LAB/sge/host" hostname "$host" load_scaling NONE complex_values slots=16 user_lists NONE xuser_lists NONE \
        projects NONE xprojects NONE usage_scaling NONE report_variables NONE
    inside qconf -se "$host" >/dev/null 2>&1 || inside qconf -Ae "$LAB/sge/host" >/dev/null
}

sge_queue() {
    local host pe limit; host=$(hostname)
    printf 'group_name @allhosts\nhostlist %s\n' "$host" >"$LAB/sge/hgrp"
    if inside qconf -shgrp @allhosts >/dev/null 2>&1; then inside qconf -Mhgrp "$LAB/sge/hgrp"; else inside qconf -Ahgrp "$LAB/sge/hgrp"; fi >/dev/null
    for pe in smp:\$pe_slots mpi:\$fill_up; do
        sge_write "$LAB/sge/pe" pe_name ${pe%%:*} slots 999 user_lists NONE xuser_lists NONE start_proc_args NONE stop_proc_args NONE \
            allocation_rule ${pe##*:} control_slaves TRUE job_is_first_task TRUE urgency_slots min accounting_summary FALSE qsort_args NONE
        inside qconf -sp ${pe%%:*} >/dev/null 2>&1 || inside qconf -Ap "$LAB/sge/pe" >/dev/null
    done
    inside qconf -sq all.q >/dev/null 2>&1 && return 0
    sge_write "$LAB/sge/queue" qname all.q hostlist @allhosts seq_no 0 load_thresholds NONE suspend_thresholds NONE nsuspend 1 \
        suspend_interval 00:05:00 priority 0 min_cpu_interval 00:05:00 processors UNDEFINED qtype "BATCH INTERACTIVE" ckpt_list NONE \
        pe_list "smp mpi" rerun FALSE slots 16 tmpdir /tmp shell /bin/bash prolog NONE epilog NONE shell_start_mode unix_behavior \
        starter_method NONE suspend_method NONE resume_method NONE terminate_method NONE notify 00:00:60 owner_list NONE user_lists NONE \
        xuser_lists NONE subordinate_list NONE complex_values NONE projects NONE xprojects NONE calendar NONE initial_state default
    for limit in rt cpu fsize data stack core rss vmem; do printf 's_%s INFINITY\nh_%s INFINITY\n' $limit $limit; done >>"$LAB/sge/queue"
    inside qconf -Aq "$LAB/sge/queue" >/dev/null
}

sge_tune() {   # schedule every second, write accounting at once, let root run jobs, send no mail, no Debian wrapper around the shepherd
    inside qconf -ssconf | sed -e 's/^schedule_interval.*/schedule_interval 0:0:1/' -e 's/^flush_submit_sec.*/flush_submit_sec 1/' \
        -e 's/^flush_finish_sec.*/flush_finish_sec 1/' -e 's/^job_load_adjustments.*/job_load_adjustments NONE/' >"$LAB/sge/sconf"
    inside qconf -Msconf "$LAB/sge/sconf" >/dev/null
    SGE_SINGLE_LINE=1 inside qconf -sconf global | sed -e 's/^min_uid.*/min_uid 0/' -e 's/^min_gid.*/min_gid 0/' \
        -e 's/^load_report_time.*/load_report_time 00:00:02/' -e 's/^mailer.*/mailer \/bin\/true/' -e 's/^execd_params.*/execd_params ENABLE_ADDGRP_KILL=TRUE/' \
        -e "s|^shepherd_cmd.*|shepherd_cmd /usr/lib/gridengine/sge_shepherd|" \
        -e 's/^reporting_params.*/reporting_params accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00 accounting_flush_time=00:00:00/' \
        >"$LAB/sge/global"
    (cd "$LAB/sge" && inside qconf -Mconf global >/dev/null)
}

sge_up() {
    if alive sge-qmaster && alive sge-execd; then return 0; fi
    local host spool=/var/spool/gridengine common=$SGE_ROOT/$SGE_CELL/common; host=$(hostname)
    mkdir -p "$LAB/sge"
    echo "$host" >$common/act_qmaster
    echo "$host localhost $(awk '$1 == "127.0.0.1" && $2 != "localhost" {print $2}' /etc/hosts | grep -vx "$host" | tr '\n' ' ')" >$common/host_aliases
    chown sgeadmin:sgeadmin $common/act_qmaster $common/host_aliases
    if [ ! -f $spool/spooldb/sge ]; then
        mkdir -p $spool/spooldb $spool/qmaster/job_scripts && chown -R sgeadmin:sgeadmin $spool
        runuser -u sgeadmin -- /usr/share/gridengine/scripts/init_cluster $SGE_ROOT $SGE_CELL $spool/spooldb sgeadmin >"$LAB/sge/init.log" 2>&1 || true
    fi
    SGE_ND=true start sge-qmaster /usr/sbin/sge_qmaster
    until_ok inside qconf -sh
    sge_host
    sge_tune   # before the execd starts: it refuses root's jobs until it has read min_gid
    SGE_ND=true start sge-execd /usr/sbin/sge_execd
    sge_queue
    until_ok sh -c "nsenter --net=/run/netns/$NETNS qstat -f | grep all.q | grep -qvE '(-NA-|au *$)'"
    inside qmod -cq all.q >/dev/null 2>&1 || true   # a job that failed while the daemons still started leaves the queue in state E
}

# PBS refuses a server on loopback, and one whose host has no name of its own: an interface in the name space, and a UTS name space.
pbs_inside() {
    # shellcheck disable=SC2016  # of the inner shell
    inside unshare --uts sh -c 'hostname pbshost; exec "$@"' sh env "PATH=$PBS/bin:$PBS/sbin:$PATH" "$@"
}

pbs_up() {
    if pbs_inside qstat -B >/dev/null 2>&1; then pbs_mom_up; return 0; fi
    chown root:root "$PBS/sbin/pbs_iff" "$PBS/sbin/pbs_rcp" && chmod 4755 "$PBS/sbin/pbs_iff" "$PBS/sbin/pbs_rcp"
    inside ip link show pbs0 >/dev/null 2>&1 || {
        inside ip link add pbs0 type veth peer name pbs1
        inside ip addr add 10.99.0.1/24 dev pbs0
        inside ip link set pbs0 up
        inside ip link set pbs1 up
    }
    grep -qw pbshost /etc/hosts || echo '10.99.0.1 pbshost' >>/etc/hosts
    printf '%s\n' PBS_SERVER=pbshost PBS_START_SERVER=1 PBS_START_SCHED=1 PBS_START_COMM=1 PBS_START_MOM=1 "PBS_EXEC=$PBS" \
        PBS_HOME=$PBS_HOME PBS_CORE_LIMIT=unlimited PBS_SCP=/usr/bin/scp >/etc/pbs.conf
    [ -d $PBS_HOME/server_priv ] || pbs_inside "$PBS/libexec/pbs_postinstall" >"$LAB/run/pbs-install.log" 2>&1 </dev/null || true
    # its mom looks at what jobs use every second, and ends those that use too much memory
    # shellcheck disable=SC2016  # of mom's configuration
    printf '%s\n' "\$clienthost pbshost" '$min_check_poll 1' '$max_check_poll 1' '$enforce mem' >$PBS_HOME/mom_priv/config
    pbs_inside setsid "$PBS/libexec/pbs_init.d" start >"$LAB/run/pbs.log" 2>&1 </dev/null || true
    until_ok pbs_inside qstat -B
    local setting
    for setting in 'set server job_history_enable = True' 'set server flatuid = True' 'set server acl_roots = root' \
        'set server scheduler_iteration = 1' 'set server eligible_time_enable = False' 'set server node_fail_requeue = 5' \
        'set node pbshost resources_available.ncpus = 16' 'set node pbshost resources_available.mem = 16gb'; do
        pbs_inside qmgr -c "$setting" >/dev/null
    done
}

# a test ends it
pbs_mom_up() {
    kill -0 "$(cat $PBS_HOME/mom_priv/mom.lock)" 2>/dev/null && return 0
    pbs_inside setsid "$PBS/sbin/pbs_mom" >>"$LAB/run/pbs.log" 2>&1 </dev/null
    # shellcheck disable=SC2016  # of the inner shell
    until_ok pbs_inside sh -c 'pbsnodes -a | grep -q "state = free"'
}

pbs_down() {
    [ -f /etc/pbs.conf ] && [ -x "$PBS/bin/qsub" ] || return 0
    pbs_inside "$PBS/libexec/pbs_init.d" stop >/dev/null 2>&1 || true   # by the pids in its lock files
    inside ip link del pbs0 2>/dev/null || true
}

# shellcheck source=tests/lab/sshd.sh
. "$(dirname "$0")/sshd.sh"

up() {
    [ "$(id -u)" = 0 ] || { echo "lab: the daemons need root" >&2; exit 1; }
    mkdir -p "$LAB/run" && chmod 755 "$LAB"
    network_up
    for name in "$@"; do
        case $name in
            slurm) slurm_up slurm 26817 ;;
            noacct) MIN_JOB_AGE=10 slurm_up noacct 27817 ;;
            sge) sge_up ;;
            pbs) if [ -x "$PBS/bin/qsub" ]; then pbs_up; else echo "lab: no OpenPBS in $PBS"; fi ;;
            ssh) ssh_up ;;
            *) echo "lab: there is no '$name'; there are slurm, noacct, sge, pbs, ssh" >&2; exit 2 ;;
        esac
    done
}

down() {
    for name in "$@"; do
        # jobs that outlive their daemons would keep the nodes completing at the next start
        if alive "$name-ctld"; then
            SLURM_CONF=$LAB/$name/slurm.conf inside timeout 10 scancel --user root --signal KILL 2>/dev/null || true
            SLURM_CONF=$LAB/$name/slurm.conf inside timeout 10 scancel --user root 2>/dev/null || true
            sleep 1
        fi
        case $name in
            slurm|noacct)
                for d in node1 node2 node3 ctld; do stop "$name-$d"; done
                if [ "$name" = slurm ]; then stop slurmdbd; stop mariadbd; fi ;;
            sge) stop sge-execd; stop sge-qmaster 15 ;;
            pbs) pbs_down ;;
            ssh) ssh_down ;;
        esac
    done
    alive slurm-ctld || alive noacct-ctld || stop munged
    # shellcheck disable=SC2031
    ls "$LAB"/run/*.pid >/dev/null 2>&1 || ip netns del $NETNS 2>/dev/null || true
}

command=${1:-}; shift || true
if [ "$command" = stop ]; then
    for daemon in "$@"; do stop "$daemon" 15; done
    exit 0
fi
[ $# -gt 0 ] || set -- slurm noacct sge pbs ssh
case $command in
    install) install_packages ;;
    up) up "$@" ;;
    down) down "$@" ;;
    *) sed -n "2,10p" "$0" >&2; exit 2 ;;
esac
