# shellcheck shell=sh disable=SC2154
# Takes in a large file, or what is missing of it. cj_unpack: gzip -dc, or cat.
umask 077
mkdir -p "$cj_folder" && cd "$cj_folder" || exit 1
[ "$cj_offset" -gt 0 ] || : >"$cj_name" || exit 1
$cj_unpack >>"$cj_name"
