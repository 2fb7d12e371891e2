#!/bin/sh
# OpenSSH's server, for tests. Root's wants an empty /run/sshd, which its service makes: here it has one in a mount
# namespace of its own, and the machine's /run stays as it is.
[ "$(id -u)" != 0 ] || exec unshare --mount sh -c \
    'mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd "$@"' sshd "$@"
exec /usr/sbin/sshd "$@"
