# shellcheck shell=sh disable=SC2154
# cj_withdraw CHUNK OTHER...: put a chunk that nobody has taken under other names, and print its own.
cd "$cj_pool" || exit 4
cj_withdraw() {
    cj_name=$1
    mv "todo/$cj_name" "tmp/$cj_name" 2>/dev/null || return 0
    echo "$cj_name"
    shift
    for cj_other in "$@"; do
        cp "tmp/$cj_name" "tmp/$cj_name@$cj_other" && mv "tmp/$cj_name@$cj_other" "todo/$cj_other" || return 1
    done
    rm -f "tmp/$cj_name"
}
# cj_move CHUNK OTHER: put back what a worker that is gone had, or delete it.
cj_move() {
    if [ -n "$2" ]; then
        mv "taken/$1" "todo/$2" 2>/dev/null
    else
        rm -f "taken/$1"
    fi
    return 0
}
