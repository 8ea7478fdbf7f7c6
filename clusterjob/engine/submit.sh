# shellcheck shell=sh
# Submits a batch, a few jobs at a time. Before this stand reply.sh and cj_scheduler_submit, the
# scheduler's own command for $cj_script; after it the calls:
#
#     cj_lock FOLDER; ...
#     ( cj_worker 0; cj_enter WORKDIR FOLDER; cj_submit TOKEN SCRIPT; ... ) &
#     cj_workers="$cj_workers $!"
#     cj_report FOLDER...
#
# FOLDER is that of the batch. The batch is submitted by one shell at a time, also where one that was
# cut off from its client goes on.
cj_exit_no_temporary_folder=96
cj_exit_folder_unusable=97
cj_exit_locked=98
cj_give_up=3 # refusals of the same words after which a worker asks no more

# Two files a job on a disk cost more than all the rest: in memory, where that is to be had.
cj_tmp=$(mktemp -d /dev/shm/clusterjob.XXXXXX 2>/dev/null || mktemp -d) ||
    exit $cj_exit_no_temporary_folder
# Nobody may be listening any more at the end: that must not keep it from tidying up. A caught signal
# is none for what is started here, an ignored one would be.
trap cj_leave_all EXIT
trap : PIPE
IFS= read -r cj_host 2>/dev/null </proc/sys/kernel/hostname || cj_host=$(uname -n)
cj_began=$(date +%s)
cj_newline='
'
cj_separator=$(printf '\037') # stands for a line break in a receipt
cj_workers=
cj_bad=

# cj_lock FOLDER: the lock is a symbolic link, made at once or not at all; it names its holder. One
# of a process that is gone, or under which nothing has happened for a quarter of an hour, is broken.
cj_lock() {
    cj_tries=0
    until ln -s "$cj_host:$$" "$1/lock" 2>/dev/null; do
        [ -e "$1" ] || (umask 077; mkdir -p "$1") # the batch has files of its own names alone
        [ -d "$1" ] && [ -w "$1" ] || return 0 # cj_enter will say so
        cj_holder=$(readlink "$1/lock")
        if [ -z "$cj_holder" ]; then # gone meanwhile, or there is no room for it
            cj_tries=$((cj_tries + 20))
            [ "$cj_tries" -lt 100 ] || return 0
            continue
        fi
        if cj_is_abandoned "$1"; then
            rm -f "$1/lock"
            continue
        fi
        cj_tries=$((cj_tries + 1))
        if [ "$cj_tries" -ge 100 ]; then
            echo "$cj_holder" >&2
            exit $cj_exit_locked
        fi
        sleep 0.3
    done
}

cj_is_abandoned() {
    case $cj_holder in
        "$cj_host":*) kill -0 "${cj_holder##*:}" 2>/dev/null || return 0 ;;
    esac
    [ -z "$(find "$1/lock" "$1/receipts" -prune -mmin -15 2>/dev/null)" ]
}

# cj_leave FOLDER...: tidy up; a lock that somebody broke meanwhile is not ours any more.
cj_leave() {
    for cj_folder in "$@"; do
        shift
        [ "$(readlink "$cj_folder/lock")" != "$cj_host:$$" ] || set -- "$@" "$cj_folder/lock"
    done
    rm -rf "$cj_tmp" "$@"
}

# cj_worker NUMBER: begin one of the loops that submit side by side.
cj_worker() {
    cj_me=$1
    cj_same=0
    cj_last=
    exec 3>"$cj_tmp/$cj_me.answers"
}

# cj_guard FOLDER: what is submitted stands in the folder of the batch, and that in one for all of
# them: nobody else may put another script there.
cj_guard() {
    for cj_dir in "${1%/*}" "$1"; do
        # shellcheck disable=SC3067  # dash, ksh and busybox have it too
        if [ ! -O "$cj_dir" ]; then
            echo "$cj_dir belongs to somebody else, who could put other scripts there: use another workdir" >&2
            return 1
        fi
    done
    case $cj_newline$(ls -ldL "${1%/*}" "$1") in *"$cj_newline"d????w* | *"$cj_newline"d???????w*)
        echo "others may write to ${1%/*} or to ${1##*/} in it, and could put other scripts there: chmod go-w both" >&2
        return 1
        ;;
    esac
}

# cj_prepare FOLDER...: make folders for the exit records of jobs that are submitted from another one,
# and see to them as cj_guard does.
cj_prepare() {
    (umask 077; mkdir -p -- "$@") || return 1
    cj_open=$(find -H "$@" -prune \( ! -user "$(id -u)" -o -perm -020 -o -perm -002 \) 2>&1)
    [ -z "$cj_open" ] || {
        echo "others may write here, and could put other scripts there: use another workdir: $cj_open" >&2
        return 1
    }
}

# cj_enter WORKDIR FOLDER [LOGS]...: go where the next jobs are submitted from. LOGS are folders of
# logs that the user named; what keeps one from being made will keep the job from writing there.
cj_enter() {
    cd "$1" && { [ -d "$2" ] || (umask 077; mkdir -p "$2"); } && cj_guard "$2" && : >>"$2/receipts" ||
        exit $cj_exit_folder_unusable
    exec 4>>"$2/receipts"
    [ $# -eq 2 ] || (shift 2; mkdir -p -- "$@" 2>/dev/null)
    cj_known=
    [ ! -s "$2/receipts" ] || cj_known=$cj_newline$(cat "$2/receipts")
}

# cj_enter_again WORKDIR FOLDER: the same where the folder was made ready before. Where it is gone
# since, the receipts are told, and stand nowhere.
cj_enter_again() {
    if [ -f "$2/receipts" ] && [ -w "$2/receipts" ]; then exec 4>>"$2/receipts"; else exec 4>&3; fi
}

# cj_submit TOKEN SCRIPT: hand one job to the scheduler, unless it has a receipt.
cj_submit() {
    cj_token=$1
    # shellcheck disable=SC2034  # of cj_scheduler_submit
    cj_script=$2
    case $cj_known in
        *"$cj_newline=$cj_token "*) return ;;
    esac
    if [ "$cj_same" -ge $cj_give_up ]; then
        printf '=%s - %s\n' "$cj_token" "$cj_last" >&3
        return
    fi
    cj_scheduler_submit >"$cj_tmp/$cj_me.out" 2>&1
    cj_code=$?
    cj_said=
    while IFS= read -r cj_line || [ -n "$cj_line" ]; do
        cj_said=$cj_said$cj_line$cj_separator
    done <"$cj_tmp/$cj_me.out"
    if [ $cj_code -eq 0 ]; then
        # the receipt is on disk before anything else happens
        cj_same=0
        printf '=%s 0 %s\n' "$cj_token" "$cj_said" >&4 ||
            printf '=%s 0 %s\n' "$cj_token" "$cj_said" >&3
        return
    fi
    if [ "$cj_said" = "$cj_last" ]; then
        cj_same=$((cj_same + 1))
    else
        cj_same=1
        cj_last=$cj_said
    fi
    printf '=%s %s %s\n' "$cj_token" $cj_code "$cj_said" >&3
}

# cj_submit_batch [TOKEN WORKDIR SCRIPT]...: hand many jobs to the scheduler's command for that, of
# which the same token is the same job; cj_take TOKEN...: make receipts of what it said to these, in
# the folder that was entered.
cj_submit_batch() {
    [ $# -gt 0 ] || return 0
    cj_code=0
    cj_scheduler_submit_batch "$@" >>"$cj_tmp/batch" 2>"$cj_tmp/words" || cj_code=$?
    [ $cj_code -ne 0 ] || return 0
    cj_said=
    while IFS= read -r cj_line || [ -n "$cj_line" ]; do
        cj_said=$cj_said$cj_line$cj_separator
    done <"$cj_tmp/words"
    while [ $# -gt 0 ]; do
        printf '=%s %s %s\n' "$1" $cj_code "$cj_said"
        shift 3
    done >>"$cj_tmp/batch"
}

cj_take() {
    : >>"$cj_tmp/batch" # there is none where nothing could be submitted
    printf '%s\n' "$@" >"$cj_tmp/tokens"
    cj_pick 1 >&4 || cj_pick 1 >&3
    cj_pick 0 >&3
}

# cj_pick YES: the answers to the jobs of $cj_tmp/tokens that were accepted, or with 0 the others.
cj_pick() {
    awk -v accepted="$1" '
        FILENAME == ARGV[1] { wanted["=" $1] = 1; next }
        $1 in wanted && ($2 == "0") == accepted
    ' "$cj_tmp/tokens" "$cj_tmp/batch"
}

# cj_report FOLDER...: wait for the workers, and print all receipts.
cj_report() {
    for cj_pid in $cj_workers; do
        wait "$cj_pid" || cj_bad=1
    done
    cj_part receipts
    for cj_folder in "$@"; do
        shift
        set -- "$@" "$cj_folder/receipts"
    done
    cat "$cj_tmp"/*.answers "$@" 2>/dev/null
    cj_part 'done'
    echo "$cj_began $(date +%s) $cj_bad"
}
