# shellcheck shell=sh
# Lists the files of jobs, and sums them up.
export LC_ALL=C

# cj_choose_sums: choose the program that sums up, by whatever name the host has it.
cj_choose_sums() {
    cj_tool=$(command -v sha256sum || command -v shasum)
    case $cj_tool in
        *shasum) cj_tool="$cj_tool -a 256" ;;
    esac
    [ -z "$cj_tool" ] || cj_sums="-exec $cj_tool {} +"
}
cj_sums=

# cj_list ROOT...: mode, size and name of every file below, and its sum.
cj_list() {
    # shellcheck disable=SC2086  # several words, or none
    find -L "$@" \( -name .clusterjob-runs -o -name '.clusterjob-part-*' \) -prune \
        -o -type f -exec ls -ldLn {} + $cj_sums 2>/dev/null
}
