# shellcheck shell=sh disable=SC1065,SC2288
# What stands around every script that goes to another host. @MARK_BEGIN@ and @MARK_END@ are the two
# halves of a mark: a shell that echoes what it runs prints no mark.
# A job that inherits SSH_CLIENT has its bash read .bashrc, as a login has (bash(1), INVOCATION).
unset SSH_CLIENT SSH2_CLIENT SSH_CONNECTION SSH_TTY
cj_frame=@MARK_BEGIN@''@MARK_END@
printf '\n%s\n' "$cj_frame"
printf '\n%s\n' "$cj_frame" >&2
( @SCRIPT@
)
printf '\n%s %s\n' @MARK_BEGIN@''@MARK_END@ $? >&2
