#!/bin/sh
# The login shell of a host that means ill: what it does with a command is in ~/mode.
#
# honest runs it. The others flood, stall, say nothing, or run it and change what it says.
mode=$(cat "$HOME/mode" 2>/dev/null)
case $mode in
    flood) exec yes 'x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x' ;;
    flood-errors) exec yes 'error error error error error error error error error error' >&2 ;;
    line) exec tr '\0' x </dev/zero ;;
    stall) exec sleep 1000 ;;
    drip) while :; do echo "still here"; sleep 1; done ;;
    silent) exit 0 ;;
    refuse) echo "go away" >&2; exit 77 ;;
    garbage) head -c 1000000 /dev/urandom; exit 0 ;;
    digits) /bin/sh "$@" | sed 's/[0-9]/²/3' ;;
    zeros) /bin/sh "$@" | sed 's/[0-9][0-9]*/00000000000000000000000000000000000000000000007/2' ;;
    escapes) /bin/sh "$@" | sed "s/\$/$(printf '\033[2J\007')/" ;;
    twice) /bin/sh "$@" | sed p ;;
    cut) /bin/sh "$@" | head -c 300 ;;
    swapped) /bin/sh "$@" | sed -n '1!G;h;$p' ;;
    outside) /bin/sh "$@" | sed 's#\./#../../#g; s#out/#../../#g' ;;
    success) /bin/sh "$@"; exit 0 ;;
    *) exec /bin/sh "$@" ;;
esac
