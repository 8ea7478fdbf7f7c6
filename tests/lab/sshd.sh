# shellcheck shell=bash
# Sourced by lab.sh: a real sshd in front of the schedulers, and a second one behind it that only it can reach.
#
# Accounts, PAM's rules and keys are the lab's own: sshd runs in a mount namespace where they stand in the place of the machine's.
#
#   port   PATH and variables for          listens in
#   2201   slurm                           the lab's namespace, loopback
#   2202   noacct
#   2203   sge
#   2206   pbs
#   2204   slurm, with dash and busybox and nothing else (no Python, no bash, no rsync)
#   2205   nothing but the system
#   22     a jump host                     the namespace clusterjob-jump, 10.77.0.2
#   2222   the host behind it              the namespace clusterjob-jump, loopback
#
#   account  logs in with                                      shell
#   lab      key; is root under another name                   bash, with a banner in .bashrc
#   labcsh   key; is root under another name                   tcsh, with a banner and a prompt in .cshrc
#   quiet    key; is root under another name                   sh, which prints nothing: scp cannot do with a banner
#   labfish  key; is root under another name                   fish, with a banner in config.fish
#   password password "let me in"                              sh
#   otp      keyboard-interactive: password, one-time code     sh
#   both     key, then keyboard-interactive: one-time code     sh
#   liar     key; its shell does with commands what it likes   liar.sh
#   alice    key; an ordinary user                             sh
#   mallory  key; another one                                  sh
JUMP=clusterjob-jump
SSH=$LAB/ssh
BARE="tar gzip gunzip sed grep egrep cat env mktemp find ls printf uname ln readlink sleep id head tail sort tr wc chmod hostname cp mv rm rmdir mkdir
      date sha256sum awk touch true false test dirname basename expr dd kill ps cut"

ssh_accounts() {
    local user uid home shell
    # a folder of its own in the place of /etc: single files would be gone where the machine's are replaced (useradd)
    rm -rf "${SSH:?}/etc"; cp -a /etc "$SSH/etc"
    while read -r user uid shell; do
        home=$SSH/home/$user
        echo "$user:x:$uid:0::$home:$shell" >>"$SSH/etc/passwd"
        echo "$user:$(case $user in password|otp) openssl passwd -6 'let me in' ;; *) echo '*' ;; esac):19000:0:99999:7:::" >>"$SSH/etc/shadow"
        mkdir -p "$home/.ssh" "$home/.config/fish"
        case $user in password|otp) ;; *) cat "$SSH/key.pub" "$SSH/locked.pub" >"$home/.ssh/authorized_keys" ;; esac
        # what google-authenticator -t writes, with a secret of the tests
        printf '%s\n' JBSWY3DPEHPK3PXPJBSWY3DPEH '" TOTP_AUTH' >"$home/.google_authenticator"
        # shellcheck disable=SC2016  # the login shell expands it
        printf '%s\n' 'echo "*** Welcome! ***"; echo "1234567 jobs are waiting" >&2' 'PS1="$(date) !% "' >"$home/.bashrc"
        # shellcheck disable=SC2016  # the login shell expands it
        printf '%s\n' 'echo "*** Welcome! ***"' 'set prompt="%n@%m 100%% ! "' >"$home/.cshrc"
        # shellcheck disable=SC2016  # the login shell expands it
        printf '%s\n' 'echo "*** Welcome! ***"' >"$home/.config/fish/config.fish"
        chmod 600 "$home/.google_authenticator"; chmod 700 "$home" "$home/.ssh"
        chown -R "$uid:0" "$home"
    done <<A
lab 0 /bin/bash
labcsh 0 /bin/tcsh
labfish 0 /usr/bin/fish
quiet 0 /bin/sh
password 30001 /bin/sh
otp 30002 /bin/sh
both 30003 /bin/sh
liar 30013 $SSH/liar.sh
alice 30011 /bin/sh
mallory 30012 /bin/sh
A
    chmod 755 "$SSH" "$SSH/home"
    printf '%s\n' 'auth [success=1 default=ignore] pam_succeed_if.so quiet user = both' 'auth required pam_unix.so' \
        'auth [success=1 default=ignore] pam_succeed_if.so quiet user = password' 'auth required pam_google_authenticator.so no_increment_hotp' \
        'auth required pam_permit.so' 'account required pam_permit.so' 'session required pam_permit.so' 'password required pam_deny.so' >"$SSH/etc/pam.d/sshd"
}

ssh_keys() {
    local name
    for name in host_ed25519 host_rsa key locked; do
        [ -f "$SSH/$name" ] || ssh-keygen -q -t "$([ $name = host_rsa ] && echo rsa || echo ed25519)" -C "lab $name" \
            -N "$([ $name = locked ] && echo 'open sesame' || true)" -f "$SSH/$name"
    done
    : >"$SSH/known_hosts"
    for name in 127.0.0.1 127.0.0.1:2222 10.77.0.2 127.0.0.1:2201 127.0.0.1:2202 127.0.0.1:2203 127.0.0.1:2204 127.0.0.1:2205 127.0.0.1:2206; do
        case $name in *:*) name="[${name%:*}]:${name#*:}" ;; esac
        echo "$name $(cut -d' ' -f1,2 "$SSH/host_ed25519.pub")" >>"$SSH/known_hosts"
    done
    ssh-keygen -q -H -f "$SSH/known_hosts" >/dev/null 2>&1; rm -f "$SSH/known_hosts.old"   # hashed, as Debian's default is
    cat >"$SSH/config" <<C
Include $SSH/config.d/*
Host *
    User lab
    HostName 127.0.0.1
    IdentityFile $SSH/key
    IdentitiesOnly yes
    UserKnownHostsFile $SSH/known_hosts
    GlobalKnownHostsFile none
C
    mkdir -p "$SSH/config.d"
    : >"$SSH/config.d/hosts"
    for name in slurm:2201 noacct:2202 sge:2203 bare:2204 plain:2205 pbs:2206; do
        printf 'Host %s\n    Port %s\n' "lab-${name%:*}" "${name#*:}" >>"$SSH/config.d/hosts"
    done
    cat >>"$SSH/config.d/hosts" <<C
Host lab-jump
    HostName 10.77.0.2
    ProxyJump lab-plain
Host lab-inner
    Port 2222
    ProxyJump lab-jump
Host lab-command
    Port 2222
    ProxyCommand ssh -F $SSH/config -W %h:%p lab-jump
Host lab-liar
    Port 2205
    User liar
Match originalhost lab-match
    Port 2205
C
}

ssh_config() {   # ssh_config FILE LISTEN...
    local file=$1 listen; shift
    : >"$file"
    for listen in "$@"; do echo "ListenAddress $listen" >>"$file"; done
    cat >>"$file" <<C
HostKey $SSH/host_ed25519
HostKey $SSH/host_rsa
PidFile none
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
StrictModes no
Subsystem sftp internal-sftp
LogLevel VERBOSE
SetEnv CLUSTERJOB_SPOOL_CORES=16
Match User password
    PasswordAuthentication yes
Match User otp
    KbdInteractiveAuthentication yes
Match User both
    KbdInteractiveAuthentication yes
    AuthenticationMethods publickey,keyboard-interactive
Match LocalPort 2201
    SetEnv SLURM_CONF=$LAB/slurm/slurm.conf CLUSTERJOB_SPOOL_CORES=16
Match LocalPort 2202
    SetEnv SLURM_CONF=$LAB/noacct/slurm.conf
Match LocalPort 2203
    SetEnv SGE_ROOT=$SGE_ROOT SGE_CELL=$SGE_CELL PATH=/usr/lib/gridengine:/usr/local/bin:/usr/bin:/bin:/usr/sbin
Match LocalPort 2206
    SetEnv PATH=${CLUSTERJOB_PBS:-/opt/pbs}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin
Match LocalPort 2204
    SetEnv SLURM_CONF=$LAB/slurm/slurm.conf PATH=$SSH/bare
C
}

ssh_network() {   # a namespace that only the lab's can reach
    ip netns list | grep -qw $JUMP || ip netns add $JUMP
    inside ip link show cj-lab >/dev/null 2>&1 && return 0
    ip link add cj-lab netns "$NETNS" type veth peer name cj-jump netns $JUMP
    inside ip addr add 10.77.0.1/24 dev cj-lab && inside ip link set cj-lab up
    nsenter --net=/run/netns/$JUMP ip addr add 10.77.0.2/24 dev cj-jump
    nsenter --net=/run/netns/$JUMP ip link set cj-jump up
    nsenter --net=/run/netns/$JUMP ip link set lo up
}

ssh_up() {
    if alive sshd && alive sshd-jump; then return 0; fi
    local name
    mkdir -p "$SSH/home" "$SSH/bare" /run/sshd
    cp "$(dirname "${BASH_SOURCE[0]}")/liar.sh" "$SSH/liar.sh"
    ssh_network
    ssh_keys
    ssh_accounts
    for name in $BARE; do ln -sf /bin/busybox "$SSH/bare/$name"; done
    ln -sf /bin/dash "$SSH/bare/sh"
    for name in sbatch squeue sacct scancel scontrol; do ln -sf "$(command -v $name)" "$SSH/bare/$name"; done
    ssh_config "$SSH/sshd_config" 127.0.0.1:2201 127.0.0.1:2202 127.0.0.1:2203 127.0.0.1:2204 127.0.0.1:2205 127.0.0.1:2206
    ssh_config "$SSH/sshd_jump_config" 10.77.0.2:22 127.0.0.1:2222
    local mounts="mount --make-rprivate /; mount --bind $SSH/etc /etc; exec /usr/sbin/sshd -D -e -f"
    start sshd unshare --mount sh -c "$mounts $SSH/sshd_config"
    (NETNS=$JUMP; start sshd-jump unshare --mount sh -c "$mounts $SSH/sshd_jump_config")
    until_ok inside ssh -F "$SSH/config" lab-inner true
    until_ok inside ssh -F "$SSH/config" lab-slurm true
}

ssh_down() {
    stop sshd-jump; stop sshd
    inside ip link del cj-lab 2>/dev/null || true   # a namespace goes only when its last process does
    ip netns del $JUMP 2>/dev/null || true
}
