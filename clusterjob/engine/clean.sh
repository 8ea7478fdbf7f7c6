# shellcheck shell=sh disable=SC2221,SC2222
# Unsets the variables of a surrounding job, of whatever scheduler, so that it does not shape the new
# one. @KEEP@ and @UNSET@ are patterns, separated by |.
export LC_ALL=C
for cj_name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $cj_name in
        @KEEP@) ;;
        @UNSET@) unset "$cj_name" ;;
    esac
done
