#!/bin/sh
# OpenSSH's server, or with SERVER another one, for tests. Root's wants an empty /run/sshd, which its service makes:
# here it has one in a mount namespace of its own, and the machine's /run stays as it is. There, what is in the directory
# SERVER_ETC stands in place of what /etc has by the same name, and SERVER_HOME in place of root's home; then what SETUP
# says is done.
server=${SERVER:-/usr/sbin/sshd}
[ "$(id -u)" = 0 ] || exec "$server" "$@"
exec unshare --mount sh -c '
    set -e
    mount -t tmpfs none /run && mkdir /run/sshd
    for file in ${SERVER_ETC:+"$SERVER_ETC"/*}; do
        [ ! -e "$file" ] || mount --bind "$file" "/etc/${file##*/}"
    done
    [ -z "${SERVER_HOME:-}" ] || mount --bind "$SERVER_HOME" /root
    eval "${SETUP-}"
    exec "$@"' sh "$server" "$@"
