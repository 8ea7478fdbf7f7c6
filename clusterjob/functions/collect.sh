# shellcheck shell=sh disable=SC2154
# Prints what is in a pool's folder, and an archive of new results. cj_pool: the folder; cj_looks:
# how often to look for results, a tenth of a second between; cj_list: whether to list the other
# folders; on standard input of cj_forget: results that were read.
cd "$cj_pool" 2>/dev/null || exit 4
cj_forget() {
    (cd results && xargs rm -f)
}
cj_print() {
    while :; do
        set -- results/*
        [ ! -e "$1" ] || break
        cj_looks=$((cj_looks - 1))
        [ "$cj_looks" -gt 0 ] || break
        sleep 0.1 2>/dev/null || { sleep 1; cj_looks=$((cj_looks - 9)); }
    done
    if [ -n "$cj_list" ]; then
        for cj_folder in todo taken workers; do
            echo "=$cj_folder"
            ls "$cj_folder" || return 1
        done
    fi
    echo "=files"
    cd results || return 1
    # as many as one answer should have: 64 MB, or one file
    # shellcheck disable=SC2012
    cj_names=$(ls -l | awk 'NR > 1 { s += $5; if (++n > 500 || (n > 1 && s > 67108864)) exit; print $NF }')
    # shellcheck disable=SC2086
    [ -z "$cj_names" ] || tar -cf - $cj_names
}
