# shellcheck shell=sh
# What the receiving side of an upload runs: comparing sums, giving files their names.

# cj_sum ARGUMENT...: sha256sum, by whatever name the host has it; 3 where it has none.
cj_sum() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$@"
    elif command -v shasum >/dev/null; then
        shasum -a 256 "$@"
    else
        return 3
    fi
}

# cj_compare NUMBER FOLDER PART...: say which of the files whose sums come on standard input are in
# the folder, and how much has arrived of large ones.
cj_compare() {
    echo "=$1"
    (
        cd "$2" 2>/dev/null || exit 0
        shift 2
        cj_sum -c - 2>/dev/null
        for cj_file in "$@"; do
            [ ! -f "$cj_file" ] || echo "part $cj_file $(($(wc -c <"$cj_file")))"
        done
    )
}

# The next four finish the small files of a folder, which arrived in a folder of their own in it.
cj_enter() {
    cd "$1" || exit 1
}
cj_check() {
    cj_sum -c - >/dev/null
    case $? in
        0 | 3) ;;
        *) echo 'it arrived damaged' >&2; exit 1 ;;
    esac
}
cj_move_up() {
    mv -f "$@" .. || exit 1
}
cj_leave() {
    cd .. && rmdir "$1"
}

# cj_arrived PART SIZE DIGEST: whether a large file is whole. What arrived in one piece is vouched
# for by SSH and by its size, and comes without a digest.
cj_arrived() {
    [ -f "$1" ] && [ "$(($(wc -c <"$1")))" -eq "$2" ] || return 1
    [ -n "$3" ] || return 0
    case $(cj_sum <"$1") in
        "$3"* | '') ;;
        *) return 1 ;;
    esac
}

# cj_place PART MODE TARGET
cj_place() {
    chmod "$2" "$1" && mv -f "$1" "$3" || exit 1
}

# cj_copy SOURCE FOLDER PART MODE NAME: copy what several jobs share, under another name first.
cj_copy() {
    mkdir -p "$2" && cp "$1" "$2/$3" && chmod "$4" "$2/$3" && mv -f "$2/$3" "$2/$5" || exit 1
}
