# shellcheck shell=sh
# Reads what jobs left on the scheduler's host: receipts and exit records; and removes it.

cj_newline='
'
# cj_open_records NUMBER FOLDER WORKDIR: the part records-NUMBER begins. Its first line is a dot where
# the folder could be entered. A folder that was deleted while its workdir is there holds nothing.
cj_open_records() {
    cj_part "records-$1"
    if [ ! -e "$2" ] && [ -d "$3" ]; then
        echo .
        exit
    fi
    cd "$2" || exit
    echo .
}

# cj_read_ended FILE...: like cj_read, of jobs that have ended: their bodies go.
cj_read_ended() {
    cj_bodies=
    for cj_file in "$@"; do
        cj_file=${cj_file%.exit}.body
        [ ! -e "$cj_file" ] || cj_bodies="$cj_bodies $cj_file"
    done
    # shellcheck disable=SC2086  # several words
    [ -z "$cj_bodies" ] || rm -f $cj_bodies
    cj_read "$@"
}

# cj_read FILE...: every line with the file's name before it.
cj_read() {
    # a job can put there what never ends: a pipe, or far more than it has to say
    cj_odd=$(find "$@" -prune \( ! -type f -o -size +200 \) 2>/dev/null)
    if [ -n "$cj_odd" ]; then
        for cj_file in "$@"; do
            shift
            case $cj_newline$cj_odd$cj_newline in
                *"$cj_newline$cj_file$cj_newline"*) ;;
                *) set -- "$@" "$cj_file" ;;
            esac
        done
    fi
    grep '' /dev/null "$@" 2>/dev/null
}

# cj_read_receipts FOLDER...
cj_read_receipts() {
    for cj_folder in "$@"; do
        cat "$cj_folder/receipts" 2>/dev/null
    done
}

# cj_read_owners FOLDER PATTERN...: the first line of exit records, which names the job that ran.
cj_read_owners() {
    (
        cd "$1" 2>/dev/null || exit
        shift
        # shellcheck disable=SC2068  # patterns
        for cj_file in $@; do
            shift
            [ ! -f "$cj_file" ] || set -- "$@" "$cj_file"
        done
        grep '^job=' /dev/null "$@" 2>/dev/null
    )
}

# cj_cancel_in_pack FILES ID ...: of jobs in packs. One that has not begun never does: its exit record
# is there already. For one that has begun there is a file that its pack looks for.
cj_cancel_in_pack() {
    umask 077
    cj_end=$(date +%s)
    while [ $# -gt 0 ]; do
        if ! (set -C && printf 'job=%s\nreason=cancelled\nexit=1\nend=%s\n' "$2" "$cj_end" >"$1.exit") 2>/dev/null; then
            : >"$1.cancel" || return 1
        fi
        shift 2
    done
}

# cj_remove FOLDER PATTERN...: remove files of jobs; cj_tidy FOLDER: an empty folder goes too;
# cj_end_removing: the exit code says whether something stayed.
cj_failed=0
cj_remove() {
    [ -d "$1" ] || return 0
    cd "$1" || exit 1
    shift
    # shellcheck disable=SC2068  # patterns
    rm -f $@ || cj_failed=1
}
cj_tidy() {
    [ -d "$1" ] || return 0
    cd "$1" || exit 1
    for cj_file in .[!.]* *; do
        case $cj_file in
            receipts | jobs-* | '.[!.]*' | '*') ;; # of the batch, or of arrays of its jobs
            *) return ;;
        esac
    done
    rm -f receipts jobs-*
    cd / && rmdir "$1" || cj_failed=1
}
cj_end_removing() {
    exit $cj_failed
}
