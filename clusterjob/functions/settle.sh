# shellcheck shell=sh
# cj_settle ID: give the files of an upload that has come whole their places, those of chunks last.
# What was placed before is not there any more, so that none is placed twice.
cj_settle() {
    [ -d "tmp/in-$1" ] || return 0
    rm -f "tmp/in-$1/end"
    for cj_folder in root shared todo; do
        set -- "$1" "tmp/in-$1/$cj_folder"/*
        [ -e "$2" ] || continue
        cj_to=$cj_folder
        [ "$cj_folder" != root ] || cj_to=.
        cj_id=$1
        shift
        mv -f "$@" "$cj_to/" || return 1
        set -- "$cj_id"
    done
    : >"tmp/sent-$1" && rm -rf "tmp/in-$1"
}
