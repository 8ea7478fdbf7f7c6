# shellcheck shell=sh disable=SC2154
# Takes files for a pool out of an archive. cj_pool: its folder; cj_id: of this upload, which may be
# tried again; cj_before: of the one before.
umask 077
cd "$cj_pool" 2>/dev/null || { mkdir -p "$cj_pool" && cd "$cj_pool" || exit 1; }
mkdir -p todo taken results workers shared logs tmp || exit 1
if [ -e "tmp/sent-$cj_id" ] || [ -d "tmp/in-$cj_id" ]; then
    cat >/dev/null
else
    rm -rf "tmp/part-$cj_id"
    mkdir "tmp/part-$cj_id" || exit 1
    gzip -dc | tar -xpof - -C "tmp/part-$cj_id" || exit 1
    [ -e "tmp/part-$cj_id/end" ] || exit 1
    mv "tmp/part-$cj_id" "tmp/in-$cj_id" || exit 1
fi
cj_settle "$cj_id" && rm -f "tmp/sent-$cj_before"
