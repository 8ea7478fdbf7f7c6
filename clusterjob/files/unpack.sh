# shellcheck shell=sh disable=SC2154
# Unpacks small files. cj_base: the folder above them all; cj_finish: a script in the archive, or ''.
umask 077
mkdir -p "$cj_base" && cd "$cj_base" || exit 1
gzip -dc | tar -xpof - || exit
if [ -n "$cj_finish" ]; then
    # shellcheck disable=SC1090
    . "./$cj_finish"
    cj_code=$?
    rm -f "./$cj_finish"
    exit $cj_code
fi
