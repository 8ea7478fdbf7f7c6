# shellcheck shell=sh
# Replies stand between lines that no banner and no scheduler prints: cj_mark is made anew each time.

# cj_part NAME: what follows on standard output is the part of that name.
cj_part() {
    # shellcheck disable=SC2154  # set before this text
    printf '\n%s\n' "$cj_mark:$1"
}

# cj_begin NAME: a part begins on both streams.
cj_begin() {
    cj_part "$1"
    cj_part "$1" >&2
}

# cj_finish NAME CODE: it is over, and the command ended with CODE.
cj_finish() {
    cj_part "$1-codes"
    echo "$2"
    cj_part end >&2
}
