# shellcheck shell=sh disable=SC2221,SC2222
# Unsets the variables of a surrounding job, of whatever scheduler, so that it does not shape the new
# one. @KEEP@ and @UNSET@ are patterns, separated by |. Words of values that look like variables are
# taken for some: no harm is done, they are not kept either way.
export LC_ALL=C
set -f
for cj_word in $(export -p); do
    cj_name=${cj_word%%=*}
    case $cj_word in [A-Za-z_]*=*) ;; *) continue ;; esac
    case $cj_name in
        *[!A-Za-z0-9_]* | @KEEP@) ;;
        @UNSET@) unset "$cj_name" ;;
    esac
done
set +f
